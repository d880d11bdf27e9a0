"""Whether this process has come to the end of its memory, whatever the code that wanted it made of that."""

import resource
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_LEFT: Final = 1 / 16
"""Share of the limit that is left when it may be too little for what was wanted next."""


def has_used_up_memory() -> bool:
    """Return whether the address space of this process has ever come near its limit; False where none is set.

    Code that is not ours may take a MemoryError for an error like any other and go on without what it wanted.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _STATUS.exists():
        return False
    return _peak_bytes() > limit * (1 - _LEFT)


def _peak_bytes() -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmPeak:"):
            return int(line.split()[1]) * 1024
    return 0

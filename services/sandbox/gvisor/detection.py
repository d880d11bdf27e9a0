"""Whether this process runs on gVisor's kernel instead of the machine's.

What gVisor shows is in its sources: a kernel log of its own that begins with its name and may be read by everybody
(pkg/sentry/kernel/syslog.go; it is also how gVisor's guides tell it), a release that names it or the time at which
all of its builds say they were built (pkg/sentry/kernel/version), and files in /proc that Linux does not have.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.sandbox.errors import SandboxUnavailableError

_READ_ALL: Final = 3
_LONGEST_LOG: Final = 1 << 17
_FIRST_LINE: Final = "Starting gVisor..."
_BUILT_AT: Final = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
_OWN_FILES: Final = ("sentry-meminfo", "gvisor")


def read_kernel_log() -> str:
    """Return the kernel's log, as syslog(2) gives it; nothing where this process may not read it."""
    buffer = ctypes.create_string_buffer(_LONGEST_LOG)
    length = ctypes.CDLL(None, use_errno=True).klogctl(_READ_ALL, buffer, _LONGEST_LOG)
    return buffer.raw[: max(0, length)].decode(errors="replace")


def require_gvisor(proc: Path = Path("/proc"), kernel_log: Callable[[], str] = read_kernel_log) -> str:
    """Return the release of gVisor's kernel. One sign is not enough: it must begin its log, and show another one.

    Args:
        proc: where /proc is mounted.
        kernel_log: returns the kernel's log.

    Raises:
        SandboxUnavailableError: this is another kernel, or one that does not show that it is gVisor.
    """
    try:
        version = (proc / "version").read_text().strip()
    except OSError as error:
        raise SandboxUnavailableError(f"no kernel says what it is: {error}") from error
    first_line = kernel_log().partition("\n")[0].rpartition("] ")[2].strip()
    release = version.removeprefix("Linux version ").partition(" ")[0]
    names_itself = "gvisor" in release.lower() or _BUILT_AT in version
    if first_line != _FIRST_LINE or not (names_itself or any((proc / name).exists() for name in _OWN_FILES)):
        raise SandboxUnavailableError(
            f"EVALFLEET_SANDBOX is gvisor, and this container's kernel is {release or 'unknown'}, which is not gVisor: "
            "let the pod's runtimeClassName name a RuntimeClass whose handler is runsc"
        )
    return release

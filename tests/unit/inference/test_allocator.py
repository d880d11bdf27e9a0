"""Memory that was freed goes back to the operating system, in a process of its own: the setting is for all of it."""

import subprocess
import sys

import pytest

# Large blocks with a small one behind each that is kept, as a tensor's neighbours are: the heap cannot shrink.
FREED_BETWEEN_KEPT = """
import ctypes, sys
from pathlib import Path
from services.inference.engines.allocator import return_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
is_set = return_large_blocks() if sys.argv[1] == "set" else None

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

before = resident_mib()
# The first one that is freed raises the size from which on glibc gives blocks back.
libc.free(libc.malloc(20 << 20))
blocks = []
for number in range(32):
    block = libc.malloc(8 << 20)
    ctypes.memset(block, 1, 8 << 20)
    blocks.append(block)
    libc.malloc(64 << 10)
for block in blocks:
    libc.free(block)
print(is_set, resident_mib() - before)
"""


def kept_mib(mode: str) -> tuple[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", FREED_BETWEEN_KEPT, mode], capture_output=True, text=True, timeout=60, check=True
    )
    is_set, kept = done.stdout.split()
    return is_set, float(kept)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_large_blocks_that_were_freed_are_given_back() -> None:
    is_set, kept = kept_mib("set")
    if is_set == "False":
        pytest.skip("the C library has no mallopt")
    assert kept < 16
    # Without it, this very pattern keeps most of what was freed; else the test would show nothing.
    assert kept_mib("left as it is")[1] > 128

"""How the C library keeps memory that was freed. Torch-free, so that it can be set before anything is loaded."""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3
LARGE_BLOCK_BYTES: Final = 1 << 20


def return_large_blocks() -> bool:
    """Have blocks of 1 MiB and more given back to the operating system as soon as they are freed.

    glibc raises the size from which on it does so to that of whatever is freed, up to 32 MiB. An encoder's tensors have
    a size of their own in every batch and mostly lie below that, so they come from a heap whose holes rarely fit the
    next batch: it grew for minutes, and all of what it grew by was free memory. Asking for such blocks anew costs page
    faults, which are lost in the time that computing on as many numbers takes.

    Returns:
        Whether the C library can do so; others than glibc are left as they are.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and bool(set_option(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES))

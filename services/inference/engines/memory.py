"""The memory of the device that the engines use: how much there is, and giving back what is free."""

import ctypes
import gc
import os
from pathlib import Path
from typing import Final

import torch

_CONTAINER_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def device_memory_bytes() -> int:
    """Return the memory of the GPU if there is one, else that of the machine or the container's share of it."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in _CONTAINER_LIMITS:
        try:
            limit = file.read_text().strip()
        except OSError:
            continue
        if limit.isdigit():
            memory = min(memory, int(limit))
    return memory


def release_free_memory() -> None:
    """Collect garbage and give free pages back to the operating system.

    Python and PyTorch free an unloaded model's memory into the C library, which keeps it for later (glibc: in the
    arena of the thread that allocated it) unless it is told otherwise.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

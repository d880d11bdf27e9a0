"""Time that a device computes, rather than the time that it takes to tell it what to compute."""

import time

import torch


def finished_at(device: torch.device) -> float:
    """Wait until the device has done what it was told, and read the clock in seconds.

    A GPU is told ahead of what it does; without waiting, the next thing that needs a result would be charged for it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()

"""Which process of a distributed training this is, and what one of them tells the others."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

ValueT = TypeVar("ValueT")

TOGETHER_SECONDS: Final = 30.0
"""Ranks that wait for one of them hear from it this often: a group gives up a call that takes minutes (NCCL: ten)."""


def process_group() -> Any | None:
    """Return ``torch.distributed`` if this process has joined a group of several."""
    module = sys.modules.get("torch.distributed")
    if module is None or not module.is_available() or not module.is_initialized() or module.get_world_size() < 2:
        return None
    return module


def is_main_rank() -> bool:
    """Whether this process speaks for the training: rank 0 of its group, or else of what its launcher says."""
    group = process_group()
    if group is not None:
        return bool(group.get_rank() == 0)
    return os.environ.get("RANK", "0") in ("", "0")


def from_main_rank(value: ValueT) -> ValueT:
    """Return the main rank's value on every rank; all of them must call it at the same point of the training.

    The value is pickled and sent as a tensor of the group's own device; a few bytes take less than a millisecond.
    """
    group = process_group()
    if group is None:
        return value
    told = [value]
    group.broadcast_object_list(told, src=0)
    return told[0]


def wait_together(wait: Callable[[float], bool], timeout_seconds: float) -> None:
    """Wait until the main rank's ``wait`` says that it is over, or its time is up; all ranks must call it.

    They leave together, and no call between them lasts longer than ``TOGETHER_SECONDS``.

    Args:
        wait: waits for so many seconds at most; called on the main rank alone, and must not raise.
        timeout_seconds: longest time.
    """
    ends_at = time.monotonic() + timeout_seconds
    is_over = False
    while not is_over:
        if is_main_rank():
            left = max(0.0, ends_at - time.monotonic())
            is_over = wait(min(left, TOGETHER_SECONDS)) or left <= TOGETHER_SECONDS
        elif process_group() is None:
            # Nobody would tell it when.
            return
        is_over = from_main_rank(is_over)

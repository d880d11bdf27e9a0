"""Which process of a distributed training this is, and what one of them tells the others."""

import os
import sys
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")


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

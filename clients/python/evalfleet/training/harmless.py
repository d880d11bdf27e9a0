"""Hooks of trainers that must not end a training."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

Arguments = ParamSpec("Arguments")

_log = logging.getLogger("evalfleet.training")


def harmless(hook: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Log what a hook raises in place of raising it.

    A hook that calls the other ranks must not be one: the others would wait for a rank that has left it half-way.
    """

    @functools.wraps(hook)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever it is, the training goes on
            _log.exception("%s failed; training goes on", hook.__qualname__)

    return guarded

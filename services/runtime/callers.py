"""Who is asking: the name by which queues are shared out and cost is summed up.

A caller names itself in the metadata entry ``evalfleet-caller``; the name travels on to the services that its call
reaches. It is a label, not a proof of identity.
"""

import re
from typing import Final

from services.runtime.calls import CALLER_KEY, current_scope
from services.runtime.error_types import InvalidArgumentError

__all__ = ["ANONYMOUS", "CALLER_KEY", "CALLER_RULE", "current_caller", "is_caller"]

ANONYMOUS: Final = "anonymous"
"""The caller of every call that names none."""

CALLER_RULE: Final = "1 to 64 of a-z, A-Z, 0-9, '.', '_', '@', '/' and '-'"
_CALLER = re.compile(r"[a-zA-Z0-9._@/-]{1,64}")
_SHOWN_CHARACTERS = 40


def is_caller(name: str) -> bool:
    """Whether a caller can have this name."""
    return _CALLER.fullmatch(name) is not None


def current_caller() -> str:
    """Return the caller of the call being handled; ANONYMOUS if it gave no name, or outside of calls.

    Raises:
        InvalidArgumentError: CALLER_INVALID: it gave a name that is none.
    """
    caller = current_scope().ids.caller
    if not caller:
        return ANONYMOUS
    if not is_caller(caller):
        raise InvalidArgumentError(
            f"metadata {CALLER_KEY} must be {CALLER_RULE}, not {caller[:_SHOWN_CHARACTERS]!r}", reason="CALLER_INVALID"
        )
    return caller

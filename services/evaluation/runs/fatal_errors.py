"""Which errors end a run, because what failed for one item would fail for all of them."""

from typing import Final

import grpc

from services.runtime.errors import FleetError

# The model, a scorer or a judge is gone, or a service stayed away for longer than our patience: no item is to blame.
_CODES: Final = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE})
_REASONS: Final = frozenset(
    {
        "SANDBOX_UNAVAILABLE",
        "ENCODER_NOT_FOUND",
        "JUDGE_MODEL_FAILED",
        "JUDGE_CHAT_TEMPLATE_MISSING",
        "SCORE_DEADLINE_EXCEEDED",
        "SAFETY_DEADLINE_EXCEEDED",
        "SANDBOX_BUSY",
    }
)
"""What no item can help: nothing runs programs or compares texts, no judge can judge or had time: none is wrong."""


class RunCannotGoOnError(Exception):
    """What failed for one item would fail for all of them; the run ends with ``error``."""

    def __init__(self, error: FleetError) -> None:
        super().__init__(error.message)
        self.error = error


def is_fatal(error: FleetError) -> bool:
    """Return whether no item is to blame for an error of a model, a scorer or a guard."""
    return error.code in _CODES or error.reason in _REASONS

"""Errors of the library as messages of the command line."""

from evalfleet.errors import EvalFleetError

# What a person at this command line can do about an error, where the service's own words cannot know it.
_HINTS = {
    "CHECKPOINT_OUTSIDE_ROOTS": "A fleet on this machine is told so with `evalfleet up --checkpoint-root DIR`.",
    "MODEL_NOT_FOUND": "A checkpoint folder can be given as well: `--model DIR`, or `evalfleet models add DIR`.",
    "TIER_NEEDS_GATES": "On this command line: `--gate 'TASK>=0.5'`.",
}


def explained(error: EvalFleetError) -> str:
    """Write an error with what can be done about it."""
    hint = _HINTS.get(error.reason)
    return error.explanation() + (f"\n{hint}" if hint else "")

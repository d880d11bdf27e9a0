"""What the log-likelihoods of choices say: which is likeliest, and how likely each is among them."""

import math
from collections.abc import Sequence

from services.runtime.errors import FieldViolation
from services.scoring.errors import LogLikelihoodError

# A sum of float32 log-probabilities can end a little above zero.
_ROUNDING = 1e-3


def first_highest(values: Sequence[float]) -> int:
    """Return the index of the highest value, of the first among equals."""
    return max(range(len(values)), key=values.__getitem__)


def probabilities(log_likelihoods: Sequence[float]) -> list[float]:
    """Return how likely each choice is if one of them is given: they sum to 1.

    Computed from differences to the highest, so that long choices do not all underflow to 0.
    """
    highest = max(log_likelihoods)
    weights = [math.exp(value - highest) for value in log_likelihoods]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def check_log_likelihoods(values: Sequence[float], field: str = "choices.log_likelihoods") -> None:
    """Refuse what cannot be compared.

    Args:
        values: one a choice.
        field: where they are in the request.

    Raises:
        LogLikelihoodError: a value is NaN or above 0, or all of them are -inf.
    """
    wrong = [index for index, value in enumerate(values) if math.isnan(value) or value > _ROUNDING]
    if wrong:
        raise LogLikelihoodError(
            "a log-likelihood is a number at or below 0 (or -inf); "
            + ", ".join(f"choice {index} has {values[index]}" for index in wrong[:5]),
            metadata={"choice": str(wrong[0])},
            field_violations=tuple(FieldViolation(f"{field}[{index}]", f"is {values[index]}") for index in wrong[:5]),
        )
    if all(value == -math.inf for value in values):
        raise LogLikelihoodError(
            "every choice has log-likelihood -inf, so none is likelier than another; check the model's precision",
            field_violations=(FieldViolation(field, "are all -inf"),),
        )

"""Multiple choice by log-likelihood and by length-normalised log-likelihood, by lm-evaluation-harness's definition."""

import math
from collections.abc import Sequence

from services.runtime.errors import FieldViolation
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.errors import LogLikelihoodError
from services.scoring.requirements import require_choices

# A sum of float32 log-probabilities can end a little above zero.
_ROUNDING = 1e-3


class MultipleChoiceParameters(ScorerParameters):
    """There is nothing to set."""


class MultipleChoice:
    """1 if the likeliest choice is right."""

    about = ScorerDescription(
        name="multiple_choice",
        version="1",
        description="Multiple choice by log-likelihood, as lm-evaluation-harness 0.4.13 does: acc takes the choice "
        "with the highest log-likelihood, acc_norm the one with the highest log-likelihood divided by the choice's "
        "length in characters (without the delimiter before it; an empty choice is never taken). The first of equals "
        "is taken. With several right choices any of them counts.",
        metrics=(
            MetricDescription("acc", "1 if the choice with the highest log-likelihood is right."),
            MetricDescription("acc_norm", "1 if the choice with the highest log-likelihood per character is right."),
        ),
    )
    parameters_type = MultipleChoiceParameters

    def score(self, parameters: MultipleChoiceParameters, item: ScoringItem, output: Output) -> Score:
        """Judge one item; raises what ``Scorer.score`` says."""
        given = require_choices(self.about.name, item, output)
        _check_log_likelihoods(given.log_likelihoods)
        taken = _first_highest(given.log_likelihoods)
        taken_normalised = _first_highest(
            [
                value / len(choice) if choice else -math.inf
                for value, choice in zip(given.log_likelihoods, given.choices, strict=True)
            ]
        )
        metrics = {
            "acc": float(taken in item.gold_indices),
            "acc_norm": float(taken_normalised in item.gold_indices),
        }
        return Score(metrics, given.choices[taken])


def _first_highest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _check_log_likelihoods(values: Sequence[float]) -> None:
    wrong = [index for index, value in enumerate(values) if math.isnan(value) or value > _ROUNDING]
    if wrong:
        raise LogLikelihoodError(
            "a log-likelihood is a number at or below 0 (or -inf); "
            + ", ".join(f"choice {index} has {values[index]}" for index in wrong[:5]),
            metadata={"choice": str(wrong[0])},
            field_violations=tuple(
                FieldViolation(f"choices.log_likelihoods[{index}]", f"is {values[index]}") for index in wrong[:5]
            ),
        )
    if all(value == -math.inf for value in values):
        raise LogLikelihoodError(
            "every choice has log-likelihood -inf, so none is likelier than another; check the model's precision",
            field_violations=(FieldViolation("choices.log_likelihoods", "are all -inf"),),
        )

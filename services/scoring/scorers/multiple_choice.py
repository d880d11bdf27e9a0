"""Multiple choice by log-likelihood and by length-normalised log-likelihood, by lm-evaluation-harness's definition."""

import math
from collections.abc import Sequence

from services.scoring.choices import check_log_likelihoods, first_highest
from services.scoring.contract import (
    ChoicesOutput,
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerParameters,
    ScoringItem,
)
from services.scoring.requirements import require_choices


class MultipleChoiceParameters(ScorerParameters):
    """There is nothing to set."""


class MultipleChoice:
    """1 if the likeliest choice is right."""

    about = ScorerDescription(
        name="multiple_choice",
        version="1",
        description="Multiple choice by log-likelihood, as lm-evaluation-harness 0.4.13 does: acc takes the choice "
        "with the highest log-likelihood, acc_norm the one with the highest log-likelihood divided by the choice's "
        "length in characters (without the delimiter before it; an empty choice is never taken), acc_bytes likewise by "
        "its length in bytes of UTF-8. The first of equals is taken. With several right choices any of them counts.",
        metrics=(
            MetricDescription("acc", "1 if the choice with the highest log-likelihood is right."),
            MetricDescription("acc_norm", "1 if the choice with the highest log-likelihood per character is right."),
            MetricDescription("acc_bytes", "1 if the choice with the highest log-likelihood per byte is right."),
        ),
    )
    parameters_type = MultipleChoiceParameters

    def score(self, parameters: MultipleChoiceParameters, item: ScoringItem, output: Output) -> Score:
        """Judge one item; raises what ``Scorer.score`` says."""
        given = require_choices(self.about.name, item, output)
        check_log_likelihoods(given.log_likelihoods)
        taken = first_highest(given.log_likelihoods)
        taken_normalised = _first_highest_per_unit(given, [len(choice) for choice in given.choices])
        taken_by_bytes = _first_highest_per_unit(given, [len(choice.encode()) for choice in given.choices])
        metrics = {
            "acc": float(taken in item.gold_indices),
            "acc_norm": float(taken_normalised in item.gold_indices),
            "acc_bytes": float(taken_by_bytes in item.gold_indices),
        }
        return Score(metrics, given.choices[taken])


def _first_highest_per_unit(given: ChoicesOutput, lengths: Sequence[int]) -> int:
    return first_highest(
        [value / length if length else -math.inf for value, length in zip(given.log_likelihoods, lengths, strict=True)]
    )

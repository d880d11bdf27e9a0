"""Multiple choice by log-likelihood: plain, by length, and beside that without the question; as in the harness."""

import math
from collections.abc import Sequence

from services.runtime.errors import FieldViolation
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
from services.scoring.errors import LogLikelihoodError
from services.scoring.requirements import require_choices

_UNCONDITIONAL = "choices.unconditional_log_likelihoods"


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
        "its length in bytes of UTF-8, acc_mutual_info the one whose log-likelihood the question raises most: the "
        "pointwise mutual information log p(choice | context) - log p(choice), where the caller also gives "
        "unconditional_log_likelihoods. The first of equals is taken. With several right choices any of them counts.",
        metrics=(
            MetricDescription("acc", "1 if the choice with the highest log-likelihood is right."),
            MetricDescription("acc_norm", "1 if the choice with the highest log-likelihood per character is right."),
            MetricDescription("acc_bytes", "1 if the choice with the highest log-likelihood per byte is right."),
            MetricDescription(
                "acc_mutual_info",
                "1 if the choice is right whose log-likelihood the question raises most; only where "
                "unconditional_log_likelihoods are given.",
            ),
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
        if given.unconditional:
            check_log_likelihoods(given.unconditional, _UNCONDITIONAL)
            metrics["acc_mutual_info"] = float(_most_informative(given) in item.gold_indices)
        return Score(metrics, given.choices[taken])


def _most_informative(given: ChoicesOutput) -> int:
    if -math.inf in given.unconditional:
        index = given.unconditional.index(-math.inf)
        raise LogLikelihoodError(
            f"choice {index} is impossible without the question, so nothing says how much that raises it",
            metadata={"choice": str(index)},
            field_violations=(FieldViolation(f"{_UNCONDITIONAL}[{index}]", "is -inf"),),
        )
    pairs = zip(given.log_likelihoods, given.unconditional, strict=True)
    return first_highest([with_question - without for with_question, without in pairs])


def _first_highest_per_unit(given: ChoicesOutput, lengths: Sequence[int]) -> int:
    return first_highest(
        [value / length if length else -math.inf for value, length in zip(given.log_likelihoods, lengths, strict=True)]
    )

"""Probabilities of the choices: TruthfulQA's MC2, the Brier score, and what a calibration curve is drawn from."""

from services.scoring.choices import check_log_likelihoods, first_highest, probabilities
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.requirements import require_choices


class ChoiceProbabilitiesParameters(ScorerParameters):
    """There is nothing to set."""


class ChoiceProbabilities:
    """How much of the probability is on right choices, and how sure the model is of its answer."""

    about = ScorerDescription(
        name="choice_probabilities",
        version="1",
        description="Takes the choices' likelihoods, divided by their sum, for probabilities. gold_probability is the "
        "right choices' share: TruthfulQA's MC2, as lm-evaluation-harness 0.4.13 computes it. brier is half of the "
        "multi-class Brier score that the harness has as brier_score, so that it lies in [0, 1]; several right "
        "choices count as one. confidence and correct are a point of a calibration curve: ECE is the mean of "
        "|mean correct - mean confidence| over bins of confidence, weighted by their items.",
        metrics=(
            MetricDescription("gold_probability", "Probability of the right choices together."),
            MetricDescription(
                "brier",
                "Half of the squared distance between the probabilities and the right answer: 0 if all probability "
                "is on right choices, 1 if all is on one wrong choice.",
                higher_is_better=False,
            ),
            MetricDescription("confidence", "Probability of the likeliest choice."),
            MetricDescription("correct", "1 if the likeliest choice is right; the first of equals is taken."),
        ),
    )
    parameters_type = ChoiceProbabilitiesParameters

    def score(self, parameters: ChoiceProbabilitiesParameters, item: ScoringItem, output: Output) -> Score:
        """Judge one item; raises what ``Scorer.score`` says."""
        given = require_choices(self.about.name, item, output)
        check_log_likelihoods(given.log_likelihoods)
        each = probabilities(given.log_likelihoods)
        gold = set(item.gold_indices)
        right = min(1.0, sum(each[index] for index in gold))
        wrong = sum(value * value for index, value in enumerate(each) if index not in gold)
        taken = first_highest(given.log_likelihoods)
        metrics = {
            "gold_probability": right,
            "brier": min(1.0, ((1 - right) ** 2 + wrong) / 2),
            "confidence": each[taken],
            "correct": float(taken in gold),
        }
        return Score(metrics, given.choices[taken])

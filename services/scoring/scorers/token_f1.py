"""Overlap of words, by SQuAD's definition."""

from collections import Counter
from dataclasses import dataclass

from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.normalisation import squad_normalised
from services.scoring.requirements import require_targets, require_text


class TokenF1Parameters(ScorerParameters):
    """There is nothing to set."""


@dataclass(frozen=True, slots=True)
class _Overlap:
    f1: float
    precision: float
    recall: float


class TokenF1:
    """F1 of the words that a text shares with the accepted answer that it is closest to."""

    about = ScorerDescription(
        name="token_f1",
        version="1",
        description="Word overlap as in SQuAD 2.0's evaluation script: both texts are lowered and lose ASCII "
        "punctuation and articles, and words count as often as they occur in both. Where either has no words left, F1 "
        "is 1 if neither has and else 0. Of several targets the one with the highest F1 counts (the first of equals).",
        metrics=(
            MetricDescription("f1", "Harmonic mean of precision and recall."),
            MetricDescription("precision", "Share of the text's words that the target has."),
            MetricDescription("recall", "Share of the target's words that the text has."),
        ),
    )
    parameters_type = TokenF1Parameters

    def score(self, parameters: TokenF1Parameters, item: ScoringItem, output: Output) -> Score:
        """Compare one text; the answer is the normalised text. Raises what ``Scorer.score`` says."""
        text, targets = require_text(self.about.name, output), require_targets(self.about.name, item)
        answer = squad_normalised(text)
        words = answer.split()
        counts = Counter(words)
        best = max(
            (_overlap(squad_normalised(target).split(), words, counts) for target in targets), key=lambda each: each.f1
        )
        return Score({"f1": best.f1, "precision": best.precision, "recall": best.recall}, answer)


def _overlap(target: list[str], words: list[str], counts: Counter[str]) -> _Overlap:
    if not target or not words:
        agrees = float(target == words)
        return _Overlap(agrees, agrees, agrees)
    shared = sum(min(count, counts[word]) for word, count in Counter(target).items())
    if not shared:
        return _Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / len(words), shared / len(target)
    return _Overlap(2 * precision * recall / (precision + recall), precision, recall)

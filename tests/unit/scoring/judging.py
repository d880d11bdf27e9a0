"""Judging one text with a scorer, as tests of scorers do it."""

from typing import Any

from services.scoring.contract import Score, ScoringItem, TextOutput
from services.scoring.registry import ScorerRegistry, builtin_scorers

_REGISTRY = ScorerRegistry(builtin_scorers())


def judge(scorer: str, text: str, *targets: str, **parameters: Any) -> Score:
    """Bind ``scorer`` to ``parameters`` as the service does, and judge ``text``."""
    bound = _REGISTRY.bind(f"scorers/{scorer}", parameters)
    score = bound.score(ScoringItem(targets=targets), TextOutput(text))
    assert list(score.metrics) == [metric.name for metric in bound.scorer.about.metrics]
    return score

"""Where evaluation's tasks and scoring's scorers meet: names, parameters and metrics that exist on both sides."""

import pytest

from services.evaluation.catalog import Catalog
from services.scoring.registry import ScorerRegistry, builtin_scorers
from tests.fakes.judge_model import fake_judge

CATALOG = Catalog.load()
REGISTRY = ScorerRegistry((*builtin_scorers(), fake_judge()))


def test_no_definition_is_broken() -> None:
    assert [problem.message for problem in CATALOG.problems] == []


@pytest.mark.parametrize("name", CATALOG.task_names)
def test_every_scorer_of_a_task_takes_its_parameters_and_gives_its_metrics(name: str) -> None:
    for use in CATALOG.task(name).spec.scorers:
        bound = REGISTRY.bind(f"scorers/{use.scorer}", use.parameters)
        given = {metric.name for metric in bound.scorer.about.metrics}
        wanted = {metric.source for metric in use.metrics}
        assert wanted <= given, f"{use.scorer} gives {sorted(given)}"

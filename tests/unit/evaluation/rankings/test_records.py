"""Rankings are written and read as they were, also by earlier versions."""

import copy
import dataclasses
import json
from typing import Any

import pytest

from services.evaluation.rankings.documents import document_of, ranking_of
from services.evaluation.rankings.record import Ranking, member_runs
from services.evaluation.runs.budget import Budget
from services.runtime.errors import (
    FailedPreconditionError,
    NotFoundError,
)
from tests.unit.evaluation.rankings.desk import REQUEST, Desk


def test_a_ranking_without_a_tolerance_is_written_as_earlier_versions_read_it() -> None:
    ranking = Ranking("rank-1", "demo", "d", "shout", "exact_match", False, 1, None, 0.95, 1, 4, 0.0, contenders=())
    values = json.loads(document_of(ranking))
    assert values.keys() == {each.name for each in dataclasses.fields(Ranking)} - {"tolerance"}
    assert ranking_of(json.dumps(values)) == ranking
    tied = dataclasses.replace(ranking, tolerance=0.1)
    assert ranking_of(document_of(tied)) == tied


def test_a_ranking_of_a_newer_version_is_refused_by_name() -> None:
    ranking = Ranking("rank-1", "demo", "d", "shout", "exact_match", False, 1, None, 0.95, 1, 4, 0.0, contenders=())
    document = json.dumps({**json.loads(document_of(ranking)), "handicap": 0.1})
    with pytest.raises(FailedPreconditionError, match=r"rank-1.*handicap"):
        ranking_of(document)


async def test_a_ranking_is_read_as_it_was_written(desk: Desk) -> None:
    ended = await desk.ended(dataclasses.replace(REQUEST, budget=Budget(items=50), seed=3))
    assert ranking_of(document_of(ended)) == ended
    assert await desk.manager().get(ended.ranking_id) == ended
    with pytest.raises(NotFoundError):
        await desk.manager().get("rank-nobody")


def test_a_model_that_was_asked_nothing_has_no_run(make_task: Any) -> None:
    ranking = Ranking("rank-1", "demo", "d", "shout", "exact_match", False, 1, None, 0.95, 1, 4, 0.0, contenders=())
    assert member_runs(copy.copy(ranking)) == ()

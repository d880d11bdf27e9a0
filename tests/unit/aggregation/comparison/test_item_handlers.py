"""Analyses of items over gRPC, from a ledger in a file."""

from typing import Any

import grpc
import numpy as np
import pytest
from evalfleet.aggregation.v1 import item_analysis_pb2

from tests.unit.aggregation.comparison.served import Stub, append, refusal


async def analyze(
    stub: Stub, **fields: Any
) -> tuple[item_analysis_pb2.ItemAnalysisSummary, list[item_analysis_pb2.AnalyzedItem]]:
    request = item_analysis_pb2.AnalyzeItemsRequest(**({"task": "t", "metric": "acc"} | fields))
    answers = [answer async for answer in stub.AnalyzeItems(request)]
    return answers[0].summary, [item for answer in answers for item in answer.items]


async def test_items_are_analysed_over_the_runs_of_the_ledger(stub: Stub) -> None:
    # Item 0: all right; 1: none; 2: better models do worse; the others: the better, the more right.
    for model in range(8):
        values = [1.0, 0.0, float(model < 4), *(float(model >= number) for number in range(8))]
        await append(stub, f"runs/r{model}", values, model_digest=f"m{model}")
    summary, items = await analyze(stub)
    assert [each.run for each in summary.runs] == [f"runs/r{model}" for model in reversed(range(8))]
    # Every model gets the item after the first three right too.
    assert (summary.saturated_count, summary.dead_count, summary.suspect_count) == (2, 1, 1)
    assert [each.item for each in items] == [f"i{number:05}" for number in range(11)]
    assert (items[0].saturated, items[1].dead, items[2].suspect) == (True, True, True)
    assert not items[0].HasField("discrimination")
    assert items[2].discrimination < -0.5
    assert items[6].discrimination > 0.5
    assert items[6].difficulty == pytest.approx(3 / 8)
    assert items[6].prompt_end == "Question 6?"
    _, flagged = await analyze(stub, flagged_only=True)
    assert [each.item for each in flagged] == ["i00000", "i00001", "i00002", "i00003"]


async def test_one_run_a_model_and_other_texts_are_left_out(stub: Stub) -> None:
    await append(stub, "runs/old", [1.0, 1.0], model_digest="m0")
    await append(
        stub,
        "runs/mixed",
        [1.0, 1.0],
        model_digest="m1",
        prompt=lambda number: f"{'Old q' if number else 'Q'}uestion {number}?",
    )
    await append(stub, "runs/empty", [None, None], model_digest="m2")
    await append(stub, "runs/new", [0.0, 0.0], model_digest="m0")
    summary, items = await analyze(stub)
    assert [(each.run, each.item_count, each.other_prompt_count) for each in summary.runs] == [
        ("runs/new", 2, 0),
        ("runs/mixed", 1, 1),
    ]
    assert {each.run: each.reason for each in summary.skipped_runs} == {
        "runs/old": "SAME_MODEL",
        "runs/empty": "NO_VALUES",
    }
    assert [each.run_count for each in items] == [2, 1]


async def test_near_duplicates_are_found_behind_the_same_examples(stub: Stub) -> None:
    examples = "Answer with one word. Question: what is two plus two? Answer: four. "
    chance = np.random.default_rng(0)
    words = [" ".join(str(each) for each in chance.integers(0, 9999, 30)) for _ in range(60)]
    words[7] = words[3].replace(words[3].split()[15], "changed")
    words[9] = f"  {words[5].upper()}!"
    await append(stub, "runs/a", [1.0] * 60, prompt=lambda number: examples + words[number])
    summary, items = await analyze(stub)
    groups = {each.item: each.duplicate_group for each in items if each.duplicate_group}
    assert summary.duplicates_searched
    assert summary.duplicate_count == 4
    assert groups["i00003"] == groups["i00007"] != groups["i00005"] == groups["i00009"]
    assert items[9].similarity == 1.0
    assert 0.8 <= items[7].similarity < 1.0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": ""}, "task"),
        ({"metric": ""}, "metric"),
        ({"run_limit": -1}, "run_limit"),
        ({"runs": ["x"]}, "runs[0]"),
        ({"duplicate_similarity": 0.0}, "duplicate_similarity"),
    ],
)
async def test_bad_analyses_are_refused(stub: Stub, fields: dict[str, Any], field: str) -> None:
    error = await refusal(analyze(stub, **fields))
    assert (error.code, error.field_violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_task_that_no_run_has_gives_an_empty_analysis(stub: Stub) -> None:
    summary, items = await analyze(stub)
    assert (list(summary.runs), items) == ([], [])

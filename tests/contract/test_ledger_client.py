"""Drawings, results, decisions and rankings of runs: what the typed client says is what the real service takes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.drawings import DrawingSpec, Question
from evalfleet.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError
from evalfleet.estimate_results import JudgeReference
from evalfleet.fleet import Fleet
from evalfleet.goals import Answer
from evalfleet.item_results import ItemFailure, ItemResult, ItemUsage
from evalfleet.ledger import Appended, RunLease
from evalfleet.programs import Ending
from evalfleet.ranking_results import Standing
from prometheus_client import CollectorRegistry

from services.aggregation.ledger import open_ledger
from services.aggregation.service import hosted as hosted_ledger
from services.code_runner.metrics import CodeRunnerMetrics
from services.code_runner.service import hosted as hosted_runner
from services.runtime.database import sqlite_url
from services.runtime.testing import run_in_process
from services.sandbox.contract import Ending as SandboxEnding
from tests.fakes.sandbox import DESCRIPTION, FakeSandbox

ITEMS = [f"i{number}" for number in range(40)]


@pytest.fixture
async def targets(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    sandbox = FakeSandbox(lambda program: SandboxEnding(program.source))
    async with (
        open_ledger(sqlite_url(tmp_path / "ledger.sqlite")) as ledger,
        run_in_process(
            hosted_ledger(ledger, max_message_bytes=16 * 1024 * 1024),
            hosted_runner(sandbox, CodeRunnerMetrics(CollectorRegistry())),
        ) as running,
    ):
        yield {"aggregation": running.address, "code_runner": running.address}


@pytest.fixture
async def fleet(targets: dict[str, str]) -> AsyncIterator[AsyncFleet]:
    async with AsyncFleet.connect(targets) as connected:
        yield connected


def spec(run: str = "r1") -> DrawingSpec:
    questions = (Question(at_least=0.5, alpha=0.025, false_failure_alpha=0.01), Question(precision=0.1, alpha=0.025))
    return DrawingSpec(run, "t", "acc", 7, "m", "digest", questions=questions, use_history=False, interval_alpha=0.05)


async def evaluate(fleet: AsyncFleet, run: str, value: float) -> Appended:
    drawn = await fleet.drawings.draw(run, "t")
    return await fleet.ledger.append(
        ItemResult(run, "t", each.item, 0, each.draw_index, metrics={"acc": value}) for each in drawn.draws
    )


async def test_a_drawing_is_made_drawn_and_decided(fleet: AsyncFleet) -> None:
    drawing = await fleet.drawings.create(spec(), ITEMS)
    told = replace(spec(), run="runs/r1", model="models/m")
    assert (drawing.spec, drawing.item_count, drawing.history_runs) == (told, 40, ())
    assert await fleet.drawings.create(spec(), ITEMS) == drawing
    with pytest.raises(AlreadyExistsError):
        await fleet.drawings.create(replace(spec(), seed=8), ITEMS)

    some = await fleet.drawings.draw("r1", "t", count=3)
    assert [each.draw_index for each in some.draws] == [0, 1, 2]
    assert [ITEMS[each.position] for each in some.draws] == [each.item for each in some.draws]
    assert not some.is_exhausted
    appended = await evaluate(fleet, "r1", 1.0)
    assert (appended.appended_count, appended.duplicate_count) == (40, 0)
    assert appended.decisions == await fleet.drawings.decisions("r1")
    [decision] = appended.decisions
    assert [each.answer for each in decision.questions] == [Answer.PASSED, Answer.REACHED]
    with pytest.raises(ValueError, match="one of at_least"):
        Question(at_least=0.5, precision=0.1)


async def test_runs_are_ranked_on_what_they_were_asked_in_common(fleet: AsyncFleet) -> None:
    for run, value in (("r1", 1.0), ("r2", 0.0)):
        await fleet.drawings.create(spec(run), ITEMS)
        await evaluate(fleet, run, value)
    ranked = await fleet.comparisons.rank(["r1", "r2"], "t")
    assert [(each.run, each.standing, each.value) for each in ranked.runs] == [
        ("runs/r1", Standing.TOP, 1.0),
        ("runs/r2", Standing.OUT, 0.0),
    ]
    assert (ranked.is_decided, ranked.item_count) == (True, 40)
    with pytest.raises(ValueError, match="one question"):
        await fleet.comparisons.rank(["r1", "r2"], "t", top=1, margin=0.1)


async def test_what_is_appended_is_read_back(targets: dict[str, str], fleet: AsyncFleet) -> None:
    scored = ItemResult(
        "runs/r1",
        "t",
        "a",
        1,
        4,
        groups={"label": "x"},
        metrics={"acc": 0.5},
        failures=(ItemFailure("JUDGE_UNPARSABLE", "no number", ("judged",), {"judged": 0.0}),),
        extracted_answer="7",
        prompt="p",
        output="o",
        targets=("7",),
        judges=(JudgeReference("scorers/x", "1", "ab"),),
        model_digest="cd",
        usage=ItemUsage(9, 5, 11, 3, 0, 1.5, 0.25, 4),
        truncated=True,
        complete_time=datetime(2026, 1, 2, tzinfo=UTC),
    )
    failed = ItemResult("r1", "t", "b", 0, 5, failures=(ItemFailure("PROMPT_TOO_LONG", "by 9", (), {"acc": 0.0}),))
    assert (await fleet.ledger.append([scored, failed], lease=RunLease("r1", 2))).appended_count == 2

    def read() -> list[ItemResult]:
        # Of the blocking client, whose evaluation service is asked for nothing here.
        with Fleet.connect({**targets, "evaluation": targets["aggregation"]}) as blocking:
            again = blocking.ledger.append([scored, failed])
            assert (again.appended_count, again.duplicate_count) == (0, 2)
            return list(blocking.runs.results("r1"))

    kept, kept_failed = await asyncio.to_thread(read)
    assert kept == scored
    assert kept_failed.failures == failed.failures
    assert kept_failed.complete_time is not None
    with pytest.raises(FailedPreconditionError) as lost:
        await fleet.ledger.append([replace(scored, item="c")], lease=RunLease("r1", 1))
    assert lost.value.reason == "RUN_LEASE_LOST"


async def test_more_results_than_a_call_takes_are_several_calls(fleet: AsyncFleet) -> None:
    results = (ItemResult("r1", "t", str(number), 0, number, metrics={"acc": 1.0}) for number in range(2500))
    assert (await fleet.ledger.append(results)).appended_count == 2500
    assert (await fleet.ledger.append([])).appended_count == 0
    too_large = ItemResult("r1", "t", "x", 0, 0, output="x" * (17 << 20))
    with pytest.raises(InvalidArgumentError) as refused:
        await fleet.ledger.append([too_large])
    assert refused.value.reason == "ITEM_TOO_LARGE"


async def test_a_program_ends_as_the_code_runner_says(fleet: AsyncFleet) -> None:
    for ending in SandboxEnding:
        run = await fleet.programs.run(ending.value, timeout_seconds=2.5)
        assert run.ending == Ending(ending.value)
        assert run.passed is (ending is SandboxEnding.PASSED)
    with pytest.raises(InvalidArgumentError) as refused:
        await fleet.programs.run("passed", timeout_seconds=601.0)
    assert refused.value.reason == "INVALID_PROGRAM"
    sandbox = await fleet.programs.sandbox()
    assert (sandbox.boundary, sandbox.programs, sandbox.processes) == ("fake", 3, 7)
    assert sandbox.digest == DESCRIPTION.digest

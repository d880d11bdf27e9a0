"""Scorers that compute and scorers that wait, in one call."""

import asyncio
import threading
from collections.abc import Sequence

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2

from services.runtime.calls import bind_ids
from services.runtime.deadlines import bind_deadline, remaining_seconds
from services.runtime.errors import FleetError, InvalidArgumentError, ResourceExhaustedError
from services.scoring.admission import Admission, AdmissionLimits
from services.scoring.contract import (
    AnyScorer,
    MetricDescription,
    Output,
    Score,
    ScorerDescription,
    ScorerParameters,
    ScoringItem,
    TextOutput,
)
from services.scoring.judging import Assignment, Judged, Judging, Outcome
from services.scoring.pool.pool import ScorerPool
from services.scoring.registry import ScorerRegistry
from tests.patience import LONGEST_WAIT_SECONDS

METRICS = (MetricDescription("value", "Any."),)


class FakeJudge:
    """Waits until it is released, and remembers how many wait at once."""

    about = ScorerDescription("fake_judge", "1", "Waits.", METRICS)
    parameters_type = ScorerParameters

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)
        self.cancelled = 0
        self.waiting = 0
        self.most_waiting = 0
        self.times_left: list[float | None] = []

    async def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        assert isinstance(output, TextOutput)
        self.times_left.append(remaining_seconds())
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        self.arrived.release()
        try:
            if output.text == "stuck":
                await asyncio.Event().wait()
            if output.text == "inner":
                raise asyncio.CancelledError
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        if output.text == "bad":
            raise InvalidArgumentError("no verdict", reason="NO_VERDICT")
        return Score({"value": 1.0}, output.text)


class FakeCounter:
    """Says how long a text is."""

    about = ScorerDescription("fake_counter", "1", "Counts.", METRICS)
    parameters_type = ScorerParameters

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        assert isinstance(output, TextOutput)
        return Score({"value": float(len(output.text))}, output.text)


class Asked:
    """Has texts judged by name of a scorer."""

    def __init__(self, *scorers: AnyScorer, judging: Judging | None = None) -> None:
        self.registry = ScorerRegistry(scorers)
        self.judging = judging or Judging(ScorerPool(), Admission())

    def read(self, request: tuple[str, str]) -> Assignment:
        scorer, text = request
        return Assignment(self.registry.bind(f"scorers/{scorer}", {}), ScoringItem(), TextOutput(text))

    async def judge_each(self, requests: Sequence[tuple[str, str]]) -> list[Outcome]:
        return await self.judging.judge_each(requests, self.read)


def answers(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [each.score.extracted_answer if isinstance(each, Judged) else reason_of(each) for each in outcomes]


def reason_of(outcome: Exception) -> str:
    assert isinstance(outcome, FleetError)
    return outcome.reason


async def test_both_kinds_share_a_batch_and_keep_its_order() -> None:
    judge = FakeJudge()
    judge.release.set()
    requests = [("fake_judge", "a"), ("fake_counter", "b"), ("fake_judge", "bad"), ("nobody", "x"), ("fake_judge", "c")]
    outcomes = await Asked(judge, FakeCounter()).judge_each(requests)
    assert answers(outcomes) == ["a", "b", "NO_VERDICT", "SCORER_NOT_FOUND", "c"]


async def test_scorers_that_wait_do_so_together_and_within_a_bound() -> None:
    judge = FakeJudge()
    batch = asyncio.create_task(Asked(judge).judge_each([("fake_judge", str(number)) for number in range(200)]))
    for _ in range(64):
        await judge.arrived.acquire()
    judge.release.set()
    assert answers(await batch) == [str(number) for number in range(200)]
    assert judge.most_waiting == 64


async def test_who_is_late_has_an_error_and_leaves_the_others_alone() -> None:
    judge = FakeJudge()
    judge.release.set()
    with bind_deadline(0.2):
        outcomes = await Asked(judge).judge_each([("fake_judge", "stuck"), ("fake_judge", "a")])
    assert answers(outcomes) == ["SCORE_DEADLINE_EXCEEDED", "a"]
    assert isinstance(outcomes[0], FleetError)
    assert outcomes[0].code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert all(left is not None and left <= 0.2 for left in judge.times_left)


async def test_a_caller_that_leaves_takes_its_work_with_it() -> None:
    judge = FakeJudge()
    batch = asyncio.create_task(Asked(judge).judge_each([("fake_judge", "a"), ("fake_judge", "b")]))
    for _ in range(2):
        await judge.arrived.acquire()
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert (judge.cancelled, judge.waiting) == (2, 0)


async def test_something_cancelled_below_a_scorer_is_the_outcome_of_its_request_alone() -> None:
    judge = FakeJudge()
    judge.release.set()
    outcomes = await Asked(judge).judge_each([("fake_judge", "inner"), ("fake_judge", "a")])
    assert answers(outcomes) == ["ITEM_CANCELLED", "a"]


async def test_one_request_by_itself_raises_its_error() -> None:
    judge = FakeJudge()
    judge.release.set()
    asked = Asked(judge)
    assert (await asked.judging.judge(("fake_judge", "a"), asked.read)).score.metrics == {"value": 1.0}
    with pytest.raises(InvalidArgumentError):
        await asked.judging.judge(("fake_judge", "bad"), asked.read)


class FakePatience:
    """Computes until the clock says so, in a thread."""

    about = ScorerDescription("fake_patience", "1", "Waits for a number of seconds.", METRICS)
    parameters_type = ScorerParameters

    def __init__(self) -> None:
        self.count = 0
        self.began = threading.Event()

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        assert isinstance(output, TextOutput)
        self.count += 1
        self.began.set()
        threading.Event().wait(float(output.text))
        return Score({"value": 1.0}, output.text)


async def test_what_was_computed_in_time_stands_and_the_rest_is_late() -> None:
    scorer = FakePatience()
    with bind_deadline(0.3):
        outcomes = await Asked(scorer, FakeCounter()).judge_each(
            [("fake_counter", "a"), *[("fake_patience", "0.05")] * 50]
        )
    said = answers(outcomes)
    assert said[0] == "a"
    assert said[-1] == "SCORE_DEADLINE_EXCEEDED"
    assert scorer.count < 50


class FakeStuck:
    """Computes in a thread until it is released."""

    about = ScorerDescription("fake_stuck", "1", "Waits.", METRICS)
    parameters_type = ScorerParameters

    def __init__(self) -> None:
        self.count = 0
        self.release = threading.Event()

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        self.count += 1
        self.release.wait(LONGEST_WAIT_SECONDS)
        return Score({"value": 1.0}, None)


async def test_threads_of_expired_calls_keep_their_places_until_they_end() -> None:
    scorer = FakeStuck()
    asked = Asked(scorer, FakeCounter())
    try:
        for _ in range(2):
            with bind_deadline(0.3):
                calls = [asked.judge_each([("fake_stuck", "")]) for _ in range(4)]
                said = [answers(each) for each in await asyncio.gather(*calls)]
            assert said == [["SCORE_DEADLINE_EXCEEDED"]] * 4
        assert scorer.count <= 4
    finally:
        scorer.release.set()
    assert answers(await asked.judge_each([("fake_counter", "a")])) == ["a"]


async def test_a_caller_that_leaves_frees_its_thread() -> None:
    scorer = FakePatience()
    batch = asyncio.create_task(Asked(scorer).judge_each([("fake_patience", "0.02")] * 500))
    await asyncio.to_thread(scorer.began.wait)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    count = scorer.count
    await asyncio.sleep(0.3)
    # The thread ends its turn, and an output takes longer than one.
    assert scorer.count <= count + 1


async def test_large_requests_are_too_much_by_their_bytes() -> None:
    large = scoring_pb2.ScoreRequest(text="a" * 600)
    judge = FakeJudge()
    assignment = Assignment(Asked(judge).registry.bind("scorers/fake_judge", {}), ScoringItem(), TextOutput("a"))
    for limits in (AdmissionLimits(held_bytes=1000), AdmissionLimits(held_bytes_per_caller=1000)):
        judging = Judging(ScorerPool(), Admission(limits))
        first = asyncio.create_task(judging.judge(large, lambda _: assignment))
        await judge.arrived.acquire()
        async with judging.open_stream(lambda _: assignment) as judge_one:
            for refused in (judging.judge_each([large], lambda _: assignment), judge_one(large)):
                with pytest.raises(ResourceExhaustedError) as caught:
                    await refused
                assert caught.value.reason == "TOO_MANY_REQUESTS"
                assert caught.value.retry_after_seconds is not None
        judge.release.set()
        await first
        # What ended takes no room.
        await judging.judge(large, lambda _: assignment)
        judge.release.clear()
        await judge.arrived.acquire()


async def test_who_has_too_much_in_hand_is_told_when_to_come_back() -> None:
    judge = FakeJudge()
    judging = Judging(ScorerPool(), Admission(AdmissionLimits(held=5, held_per_caller=3)))
    asked = Asked(judge, judging=judging)
    with bind_ids(caller="team/a"):
        first = asyncio.create_task(asked.judge_each([("fake_judge", "a")] * 2))
    await judge.arrived.acquire()
    with bind_ids(caller="team/a"), pytest.raises(ResourceExhaustedError) as caught:
        await asked.judge_each([("fake_judge", "a")] * 2)
    assert caught.value.reason == "TOO_MANY_REQUESTS"
    assert caught.value.retry_after_seconds is not None
    with bind_ids(caller="team/b"):
        second = asyncio.create_task(asked.judge_each([("fake_judge", "b")] * 3))
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhaustedError):
            await asked.judge_each([("fake_judge", "c")])
    judge.release.set()
    assert (answers(await first), answers(await second)) == (["a"] * 2, ["b"] * 3)
    # A call that is larger than all bounds is judged where it is alone.
    assert len(await asked.judge_each([("fake_judge", "a")] * 9)) == 9

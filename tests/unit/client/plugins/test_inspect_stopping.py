"""Stopping early in Inspect AI: orders, refusals, and evaluations that outlive the service which was to stop them."""

from collections.abc import Iterator

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, drawing_pb2
from evalfleet.errors import InvalidArgumentError, PermissionDeniedError
from evalfleet.plugins.inspect import FleetStopping
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalConfig, EvalDataset, EvalSpec
from inspect_ai.scorer import CORRECT, SampleScore, Score

from tests.fakes.fleet import FakeFleet
from tests.fakes.refusing import fail

SPEC = EvalSpec(
    eval_id="e1", created="2026-01-01T00:00:00Z", task="quiz", model="evalfleet/step-100", dataset=EvalDataset(),
    config=EvalConfig(),
)  # fmt: skip
RIGHT = {"match": SampleScore(score=Score(value=CORRECT))}


class Aggregation:
    """Draws backwards; decides after two results, or fails."""

    def __init__(self) -> None:
        self.specs: list[drawing_pb2.DrawingSpec] = []
        self.results: list[aggregation_pb2.Result] = []
        self.is_away = False
        self.refusal: grpc.StatusCode | None = None
        self._ids: list[str] = []

    def create(
        self, requests: Iterator[drawing_pb2.CreateDrawingRequest], context: grpc.ServicerContext
    ) -> drawing_pb2.CreateDrawingResponse:
        self._ids = []
        if self.refusal is not None:
            fail(context, self.refusal, "the ledger is damaged", reason="REFUSED")
        for each in requests:
            if each.HasField("spec"):
                self.specs.append(each.spec)
            self._ids += each.item_ids
        return drawing_pb2.CreateDrawingResponse()

    def draw(self, request: drawing_pb2.DrawItemsRequest, _: grpc.ServicerContext) -> drawing_pb2.DrawItemsResponse:
        # Two at a time: whoever asks goes on where the last answer ended.
        ids = self._ids[::-1][request.first_draw_index :][:2]
        return drawing_pb2.DrawItemsResponse(draws=[drawing_pb2.Draw(item_id=each) for each in ids])

    def append(
        self, requests: Iterator[aggregation_pb2.AppendResultsRequest], context: grpc.ServicerContext
    ) -> aggregation_pb2.AppendResultsResponse:
        if self.is_away:
            fail(context, grpc.StatusCode.INTERNAL, "the ledger is damaged", reason="INTERNAL")
        self.results += [each for request in requests for each in request.results]
        return aggregation_pb2.AppendResultsResponse(decisions=[self._decision()])

    def decisions(
        self, _: drawing_pb2.GetDecisionsRequest, __: grpc.ServicerContext
    ) -> drawing_pb2.GetDecisionsResponse:
        return drawing_pb2.GetDecisionsResponse(decisions=[self._decision()])

    def _decision(self) -> drawing_pb2.TaskDecision:
        is_decided = len(self.results) >= 2
        state = drawing_pb2.QUESTION_STATE_PASSED if is_decided else drawing_pb2.QUESTION_STATE_UNDECIDED
        question = drawing_pb2.QuestionDecision(question=self.specs[-1].questions[0], state=state)
        return drawing_pb2.TaskDecision(
            task="quiz", questions=[question], is_decided=is_decided, completed_count=len(self.results)
        )


@pytest.fixture
def aggregation(fake: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> Aggregation:
    aggregation = Aggregation()
    monkeypatch.setattr(fake.aggregation, "CreateDrawing", aggregation.create)
    monkeypatch.setattr(fake.aggregation, "DrawItems", aggregation.draw)
    monkeypatch.setattr(fake.aggregation, "AppendResults", aggregation.append)
    monkeypatch.setattr(fake.aggregation, "GetDecisions", aggregation.decisions)
    # Servicers are bound when they are added.
    fake.stop()
    fake.start()
    return aggregation


def quiz(count: int = 5) -> Task:
    return Task(MemoryDataset([Sample(input=f"q{number}", target="x") for number in range(count)]), name="quiz")


def samples_of(task: Task) -> list[Sample]:
    assert isinstance(task.dataset, MemoryDataset)
    return list(task.dataset)


async def test_samples_are_asked_in_the_drawn_order_until_the_question_is_decided(
    fake: FakeFleet, aggregation: Aggregation
) -> None:
    stopping = FleetStopping(at_least=0.5, precision=0.1, confidence=0.9, seed=7, endpoint=fake.target)
    task = stopping.applied_to(quiz())
    samples = samples_of(task)
    assert [each.id for each in samples] == [5, 4, 3, 2, 1]
    assert await stopping.start_task(SPEC, samples, epochs=1) == "evalfleet"
    ordering, asked = aggregation.specs
    assert (ordering.seed, ordering.data_digest, ordering.metric) == (7, asked.data_digest, asked.metric)
    assert asked.history_mode == drawing_pb2.HISTORY_MODE_NONE
    assert (asked.run, asked.task, asked.model) == ("runs/inspect-e1", "quiz", "models/step-100")
    # Both questions together are wrong with the probability that was asked for.
    assert [each.alpha for each in asked.questions] == pytest.approx([0.05, 0.05])
    assert await stopping.schedule_sample(5, 1) is None
    await stopping.complete_sample(5, 1, RIGHT)
    assert await stopping.schedule_sample(4, 1) is None
    await stopping.complete_sample(4, 1, {"match": SampleScore(score=Score.unscored())})
    stop = await stopping.schedule_sample(3, 1)
    assert stop is not None
    assert stop.reason == "decided after 2 samples: >=0.5 passed"
    known, unknown = aggregation.results
    assert (known.item, known.draw_index, known.scored.metrics["score"]) == ("5", 0, 1.0)
    assert (unknown.item, unknown.draw_index, unknown.failure.reason) == ("4", 1, "SCORE_MISSING")
    assert not unknown.failure.counted_as
    told = await stopping.complete_task()
    assert told["is_decided"] is True
    assert told["run"] == "runs/inspect-e1"


async def test_an_evaluation_goes_on_to_its_end_when_the_service_fails(
    fake: FakeFleet, aggregation: Aggregation
) -> None:
    stopping = FleetStopping(at_least=0.5, endpoint=fake.target)
    samples = samples_of(stopping.applied_to(quiz()))
    await stopping.start_task(SPEC, samples, epochs=1)
    aggregation.is_away = True
    for sample in samples:
        assert sample.id is not None
        assert await stopping.schedule_sample(sample.id, 1) is None
        await stopping.complete_sample(sample.id, 1, RIGHT)
    assert (await stopping.complete_task())["problem"] == "the ledger is damaged"


async def test_an_evaluation_that_begins_without_the_service_is_not_stopped(
    fake: FakeFleet, aggregation: Aggregation
) -> None:
    stopping = FleetStopping(at_least=0.5, endpoint=fake.target)
    samples = samples_of(stopping.applied_to(quiz()))
    aggregation.refusal = grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(PermissionDeniedError):
        await stopping.start_task(SPEC, samples, epochs=1)
    aggregation.refusal = grpc.StatusCode.INTERNAL
    assert await stopping.start_task(SPEC, samples, epochs=1) == "evalfleet"
    for sample in samples:
        assert sample.id is not None
        assert await stopping.schedule_sample(sample.id, 1) is None
        await stopping.complete_sample(sample.id, 1, RIGHT)
    assert not aggregation.results
    assert (await stopping.complete_task())["problem"] == "the ledger is damaged"


async def test_only_the_first_samples_of_the_drawn_order_may_be_asked(
    fake: FakeFleet, aggregation: Aggregation
) -> None:
    stopping = FleetStopping(at_most=0.5, endpoint=fake.target)
    samples = samples_of(stopping.applied_to(quiz()))
    await stopping.start_task(SPEC, samples[:3], epochs=1)
    for wrong in (samples[1:], samples[::-1], []):
        with pytest.raises(InvalidArgumentError, match="applied_to") as refused:
            await stopping.start_task(SPEC, wrong, epochs=1)
        assert refused.value.reason == "SAMPLES_NOT_IN_DRAWN_ORDER"
    with pytest.raises(InvalidArgumentError, match="applied_to"):
        await FleetStopping(at_most=0.5, endpoint=fake.target).start_task(SPEC, samples, epochs=1)


async def test_what_is_decided_is_the_mean_of_the_epochs_and_nothing_else(
    fake: FakeFleet, aggregation: Aggregation
) -> None:
    stopping = FleetStopping(at_most=0.5, endpoint=fake.target)
    samples = samples_of(stopping.applied_to(quiz()))
    spec = SPEC.model_copy(update={"config": EvalConfig(epochs_reducer=["mean", "at_least_2"])})
    with pytest.raises(InvalidArgumentError, match="not about at_least_2") as refused:
        await stopping.start_task(spec, samples, epochs=3)
    assert refused.value.reason == "REDUCER_NOT_OFFERED"
    spec = SPEC.model_copy(update={"config": EvalConfig(epochs_reducer=["mean"])})
    assert await stopping.start_task(spec, samples, epochs=3) == "evalfleet"


def test_other_samples_have_another_order(fake: FakeFleet, aggregation: Aggregation) -> None:
    stopping = FleetStopping(at_least=0.5, endpoint=fake.target)
    for count in (5, 5, 4):
        stopping.applied_to(quiz(count))
    same, again, other = (each.data_digest for each in aggregation.specs)
    assert same == again != other


def test_a_question_must_be_asked(fake: FakeFleet) -> None:
    with pytest.raises(InvalidArgumentError, match="at_least"):
        FleetStopping(endpoint=fake.target)
    with pytest.raises(InvalidArgumentError, match="confidence"):
        FleetStopping(at_least=0.5, confidence=1.0, endpoint=fake.target)
    twice = Task(MemoryDataset([Sample(id="a", input="x"), Sample(id="a", input="y")]))
    with pytest.raises(InvalidArgumentError, match="same id"):
        FleetStopping(at_least=0.5, endpoint=fake.target).applied_to(twice)

"""A fake fleet that makes a run of each checkpoint, and what an evaluator needs to be quick in tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.fleet import Fleet
from evalfleet.training import CheckpointEvaluator, EvaluationRequest

from tests.fakes.demo_run import make_run
from tests.fakes.evaluation_service import FakeEvaluation
from tests.fakes.fleet import FakeFleet

MakeEvaluator = Callable[..., CheckpointEvaluator]


class RunPerRequest(FakeEvaluation):
    """Makes one run a request id, in the state ``state``; ``gate_answers`` are what the gates of the next runs say."""

    def __init__(self) -> None:
        super().__init__()
        self.by_request: dict[str, evaluation_pb2.Run] = {}
        self.state: evaluation_pb2.RunState.ValueType = evaluation_pb2.RUN_STATE_SUCCEEDED
        self.gate_answers: list[drawing_pb2.QuestionState.ValueType] = []
        self.answers_lost = 0

    def CreateRun(
        self, request: evaluation_pb2.CreateRunRequest, context: grpc.ServicerContext
    ) -> evaluation_pb2.CreateRunResponse:
        if request.request_id not in self.by_request:
            super().CreateRun(request, context)
            run = self.put(make_run(f"r{len(self.by_request)}", state=self.state, model=request.model))
            if self.gate_answers:
                run.gates.extend(request.gates)
                question = drawing_pb2.QuestionDecision(
                    question=drawing_pb2.Question(gate=drawing_pb2.Gate(threshold=0.5)), state=self.gate_answers.pop(0)
                )
                run.decisions.append(drawing_pb2.TaskDecision(task="arithmetic", questions=[question]))
            self.by_request[request.request_id] = run
        if self.answers_lost:
            self.answers_lost -= 1
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "")
        return evaluation_pb2.CreateRunResponse(run=self.by_request[request.request_id])


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for what a fleet that is away is left in peace."""
    monkeypatch.setattr("evalfleet.training.collector.SHORTEST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("evalfleet.training.collector.LONGEST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr("evalfleet.training.following._LOAD_WAIT_SECONDS", 0.5)


@pytest.fixture
def evaluation(fake: FakeFleet) -> RunPerRequest:
    """The evaluation service of the fake fleet."""
    fake.stop()
    fake.evaluation = service = RunPerRequest()
    fake.start()
    return service


@pytest.fixture
def make_evaluator(fake: FakeFleet, evaluation: RunPerRequest) -> Iterator[MakeEvaluator]:
    """Makes evaluators of the demo suite, which are closed at the end."""
    made: list[CheckpointEvaluator] = []

    def make(*, gates: tuple[str, ...] = (), **options: object) -> CheckpointEvaluator:
        given = {"run_name": "sft", "connect": lambda: Fleet.connect(fake.targets), "poll_seconds": 0.02, **options}
        made.append(CheckpointEvaluator(EvaluationRequest("demo", gates=gates), **given))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder as a trainer saves it."""

    def save(step: int) -> Path:
        folder = tmp_path / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "optimizer.pt", "trainer_state.json"):
            (folder / name).write_text(f"{name} of {step}")
        return folder

    return save

"""The checkpoint host: many checkpoints in one process, each request answered by its own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference import contract
from services.inference.contract import CausalLMArguments
from services.inference.engines import seams
from services.inference.engines.checkpoint_host import CheckpointHost
from services.inference.engines.seams import EngineMetrics, Responder, Tensors
from services.inference.engines.shared_metrics import SharedMetrics
from services.inference.engines.turns import FairLock
from services.inference.failures import InferenceFailure
from services.inference.host_contract import (
    CHECKPOINT,
    CONTROL_KEY,
    OPERATION,
    REPORT,
    HostArguments,
    HostReport,
    Operation,
    key_sha256,
    parse_operation,
    parse_report,
)
from tests.patience import LONGEST_WAIT_SECONDS

KEY = "a key"


class FakeEngine:
    """Answers with its checkpoint's name; ``gate`` holds answers back, ``load_gate`` holds loads."""

    gate: threading.Event | None = None
    load_gate: threading.Event | None = None
    loads: list[str]
    closed: list[str]

    def __init__(self, name: str, metrics: EngineMetrics) -> None:
        self.name = name
        metrics.publish({seams.GENERATED_TOKENS: 10.0, seams.RUNNING_SEQUENCES: 1.0})

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        def answer() -> None:
            if FakeEngine.gate is not None:
                assert FakeEngine.gate.wait(LONGEST_WAIT_SECONDS)
            responder.finish({contract.TEXT_OUTPUT: seams.texts(self.name)})

        threading.Thread(target=answer, daemon=True).start()

    def close(self) -> None:
        FakeEngine.closed.append(self.name)

    @classmethod
    def load(
        cls, arguments: CausalLMArguments, metrics: EngineMetrics, turn: AbstractContextManager[object]
    ) -> "FakeEngine":
        if FakeEngine.load_gate is not None:
            assert FakeEngine.load_gate.wait(LONGEST_WAIT_SECONDS)
        FakeEngine.loads.append(arguments.model)
        if arguments.model == "bad":
            raise InferenceFailure("bad weights", reason="CHECKPOINT_CORRUPT", code="FAILED_PRECONDITION")
        return cls(arguments.model, metrics)


@pytest.fixture
def metrics(new_metrics: Any) -> Any:
    return new_metrics()


@pytest.fixture
def host(metrics: Any) -> Iterator[CheckpointHost]:
    FakeEngine.gate = FakeEngine.load_gate = None
    FakeEngine.loads, FakeEngine.closed = [], []
    host = CheckpointHost(
        HostArguments(key_sha256(KEY)), metrics, load_engine=FakeEngine.load, drain_seconds=LONGEST_WAIT_SECONDS
    )
    yield host
    host.close()


@pytest.fixture
def operate(host: CheckpointHost, new_answers: Any, texts: Any) -> Callable[..., HostReport]:
    def operate(kind: Any, name: str = "", model: str | None = None, *, key: str = KEY) -> HostReport:
        answers = new_answers()
        arguments = CausalLMArguments(model=model) if model else None
        tensors = {OPERATION: texts(Operation(kind, name, arguments).to_json()), CONTROL_KEY: texts(key)}
        host.submit(tensors, answers)
        return parse_report(answers.wait()[0][REPORT][0].decode())

    return operate


def answer_of(host: CheckpointHost, answers: Any, name: str) -> str:
    host.submit({CHECKPOINT: np.array([name.encode()], dtype=np.object_)}, answers)
    return str(answers.wait()[0][contract.TEXT_OUTPUT][0].decode())


def test_each_request_is_answered_by_its_checkpoint(host: CheckpointHost, operate: Any, new_answers: Any) -> None:
    assert operate("load", "a", "/a").checkpoints == ("a",)
    report = operate("load", "b", "/b")
    assert report.checkpoints == ("a", "b")
    assert report.memory_bytes > 1 << 20
    assert answer_of(host, new_answers(), "a") == "/a"
    assert answer_of(host, new_answers(), "b") == "/b"
    assert operate("unload", "a").checkpoints == ("b",)
    assert FakeEngine.closed == ["/a"]
    with pytest.raises(InferenceFailure) as caught:
        answer_of(host, new_answers(), "a")
    assert (caught.value.reason, caught.value.code) == ("MODEL_NOT_LOADED", "NOT_FOUND")
    assert operate("unload", "never-there").checkpoints == ("b",)


@pytest.mark.parametrize("key", ["", "another key"])
def test_operations_need_the_key(host: CheckpointHost, operate: Any, key: str) -> None:
    for arguments in (("load", "a", "/a"), ("unload", "a"), ("list",)):
        with pytest.raises(InferenceFailure) as caught:
            operate(*arguments, key=key)
        assert (caught.value.reason, caught.value.code) == ("MODEL_CONTROL_REFUSED", "PERMISSION_DENIED")
    assert FakeEngine.loads == []


def test_a_failed_load_harms_no_other(host: CheckpointHost, operate: Any, new_answers: Any) -> None:
    operate("load", "a", "/a")
    with pytest.raises(InferenceFailure) as caught:
        operate("load", "b", "bad")
    assert caught.value.reason == "CHECKPOINT_CORRUPT"
    assert operate("list").checkpoints == ("a",)
    assert answer_of(host, new_answers(), "a") == "/a"
    assert operate("load", "b", "/b").checkpoints == ("a", "b")


def test_loading_holds_no_answer_back(host: CheckpointHost, operate: Any, new_answers: Any, texts: Any) -> None:
    operate("load", "a", "/a")
    FakeEngine.load_gate = threading.Event()
    loads = [new_answers(), new_answers()]
    operation = Operation("load", "b", CausalLMArguments(model="/b"))
    for each in loads:
        host.submit({OPERATION: texts(operation.to_json()), CONTROL_KEY: texts(KEY)}, each)
    assert answer_of(host, new_answers(), "a") == "/a"
    assert operate("list").checkpoints == ("a",)
    FakeEngine.load_gate.set()
    for each in loads:
        assert parse_report(each.wait()[0][REPORT][0].decode()).checkpoints == ("a", "b")
    assert FakeEngine.loads == ["/a", "/b"]
    assert operate("load", "b", "/elsewhere").checkpoints == ("a", "b")
    assert FakeEngine.loads == ["/a", "/b"]


def test_an_unload_waits_for_what_is_in_flight(
    host: CheckpointHost, operate: Any, new_answers: Any, texts: Any
) -> None:
    operate("load", "a", "/a")
    FakeEngine.gate = threading.Event()
    running, unloading = new_answers(), new_answers()
    host.submit({CHECKPOINT: texts("a")}, running)
    host.submit({OPERATION: texts(Operation("unload", "a").to_json()), CONTROL_KEY: texts(KEY)}, unloading)
    assert not unloading._ended.wait(0.1)
    assert FakeEngine.closed == []
    FakeEngine.gate.set()
    unloading.wait()
    assert running.wait()[0][contract.TEXT_OUTPUT][0] == b"/a"
    assert FakeEngine.closed == ["/a"]


def test_counters_survive_an_unload(host: CheckpointHost, operate: Any, metrics: Any) -> None:
    operate("load", "a", "/a")
    operate("load", "b", "/b")
    metrics.wait_for(lambda values: values[seams.GENERATED_TOKENS] == 20 and values[seams.RUNNING_SEQUENCES] == 2)
    operate("unload", "a")
    metrics.wait_for(lambda values: values[seams.GENERATED_TOKENS] == 20 and values[seams.RUNNING_SEQUENCES] == 1)


def test_shared_counters_never_fall(metrics: Any) -> None:
    shared = SharedMetrics(metrics)
    for tokens in (3.0, 4.0):
        shared.of_engine("a").publish({seams.GENERATED_TOKENS: tokens})
    shared.forget("a")
    shared.of_engine("a").publish({seams.GENERATED_TOKENS: 1.0})
    assert metrics.values[seams.GENERATED_TOKENS] == 5.0


def test_a_name_that_reports_again_lowers_no_counter(metrics: Any) -> None:
    shared = SharedMetrics(metrics)
    first = shared.of_engine("a")
    first.publish({seams.GENERATED_TOKENS: 10.0})
    first.publish({seams.GENERATED_TOKENS: 2.0})
    assert metrics.values[seams.GENERATED_TOKENS] == 12.0
    shared.forget("a")
    # An engine's last report may come when it is forgotten already.
    first.publish({seams.GENERATED_TOKENS: 3.0})
    shared.of_engine("a").publish({seams.GENERATED_TOKENS: 1.0})
    assert metrics.values[seams.GENERATED_TOKENS] == 13.0


def test_metrics_that_are_refused_cost_no_unload(
    host: CheckpointHost, operate: Any, metrics: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(values: Any) -> None:
        raise RuntimeError("refused")

    operate("load", "a", "/a")
    monkeypatch.setattr(metrics, "publish", refuse)
    assert operate("unload", "a").checkpoints == ()


def test_an_engine_that_raises_over_a_request_answers_it_and_can_be_unloaded(
    host: CheckpointHost, operate: Any, new_answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide(*_: Any) -> None:
        raise ZeroDivisionError

    operate("load", "a", "/a")
    monkeypatch.setattr(FakeEngine, "submit", divide)
    with pytest.raises(InferenceFailure) as caught:
        answer_of(host, new_answers(), "a")
    assert (caught.value.reason, caught.value.code) == ("ENGINE_FAILED", "INTERNAL")
    host._drain_seconds = 3600.0
    assert operate("unload", "a").checkpoints == ()


def test_turns_are_taken_in_the_order_of_asking() -> None:
    lock = FairLock()
    order: list[str] = []
    waiting: list[threading.Thread] = []
    with lock:
        for name in "abc":
            thread = threading.Thread(target=lambda name=name: _take(lock, order, name))
            thread.start()
            waiting.append(thread)
            while len(lock._waiting) < len(waiting):
                pass
        # Whoever gives the lock back and asks again at once comes last.
    with lock:
        order.append("again")
    for thread in waiting:
        thread.join()
    assert order == ["a", "b", "c", "again"]


def _take(lock: FairLock, order: list[str], name: str) -> None:
    with lock:
        order.append(name)


@given(st.text() | st.sampled_from(['{"kind": "load", "name": "a"}', '{"kind": "list", "name": 3}', "[]", "null"]))
def test_a_malformed_operation_is_refused(text: str) -> None:
    with pytest.raises(InferenceFailure) as caught:
        parse_operation(text)
    assert caught.value.reason == "OPERATION_INVALID"


def test_an_operation_with_unknown_arguments_is_refused() -> None:
    body = '{"kind": "load", "name": "a", "arguments": {"model": "/a", "modle": 1}}'
    with pytest.raises(InferenceFailure, match="modle"):
        parse_operation(body)


def test_real_engines_share_a_process(
    checkpoint_factory: Callable[[int], Path], metrics: Any, new_answers: Any, texts: Any
) -> None:
    host = CheckpointHost(HostArguments(key_sha256(KEY)), metrics)
    answers: dict[int, Any] = {}
    for seed in (7, 8):
        loaded = new_answers()
        arguments = CausalLMArguments(model=str(checkpoint_factory(seed)))
        host.submit(
            {OPERATION: texts(Operation("load", f"m{seed}", arguments).to_json()), CONTROL_KEY: texts(KEY)}, loaded
        )
        loaded.wait()
    for seed in (7, 8):
        answers[seed] = new_answers()
        tensors = {
            CHECKPOINT: texts(f"m{seed}"),
            contract.TEXT_INPUT: texts("The quick"),
            contract.SAMPLING_PARAMETERS: texts('{"max_tokens": 12, "temperature": 0}'),
            contract.EXCLUDE_INPUT_IN_OUTPUT: np.array([True]),
        }
        host.submit(tensors, answers[seed])
    said = {seed: each.wait()[0][contract.TEXT_OUTPUT][0] for seed, each in answers.items()}
    assert said[7] != said[8]
    host.close()

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from services.inference import contract
from services.inference.engines import seams
from services.inference.engines.request_reading import RequestReader, TextFacts
from services.inference.engines.seams import Tensors
from services.inference.engines.vllm.engine import VllmEngine, Weights
from services.inference.engines.vllm.time_shares import TimeShares
from services.inference.engines.vllm.token_engine import SchedulerWatch
from services.inference.engines.vllm.weights import WeightTurns
from services.inference.failures import InferenceFailure
from services.inference.tensors import flag_array, text_array
from tests.fakes.token_engine import FakeTokenEngine
from tests.patience import LONGEST_WAIT_SECONDS

A, B = Weights("a", 0), Weights("b", 0)


class FakeTokenizer:
    """Every character is the token of its code point."""

    bos_token_id = 0
    eos_token_id = 1
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [ord(each) % 50 for each in text]

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(map(chr, ids))


READER = RequestReader(TextFacts(FakeTokenizer(), 64, 200, frozenset({1})))


class Caller:
    """Waits for one answer, and may give up."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.answers: list[Tensors] = []
        self.failure: InferenceFailure | None = None
        self.gave_up = False

    def send(self, tensors: Tensors) -> None:
        self.answers.append(tensors)

    def finish(self, tensors: Tensors | None = None) -> None:
        self.answers += [] if tensors is None else [tensors]
        self.ended.set()

    def fail(self, failure: InferenceFailure) -> None:
        self.failure = failure
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.gave_up

    @property
    def text(self) -> str:
        assert self.ended.wait(LONGEST_WAIT_SECONDS)
        assert self.failure is None
        return "".join(each[contract.TEXT_OUTPUT][0].decode() for each in self.answers)

    @property
    def reason(self) -> str:
        assert self.ended.wait(LONGEST_WAIT_SECONDS)
        assert self.failure is not None
        return self.failure.reason


class Metrics:
    def __init__(self) -> None:
        self.values: Mapping[str, float] = {}

    def publish(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)


class Running:
    """An engine over a fake vLLM."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.vllm = FakeTokenEngine()
        self.watch: SchedulerWatch = lambda figures: None

        def start(watch: SchedulerWatch) -> FakeTokenEngine:
            self.watch = watch
            return self.vllm

        self.stamps: dict[str, int] = {}
        self.engine = VllmEngine(start, A, self.metrics, stamp_of=lambda path: self.stamps.get(path, 0))

    def ask(self, weights: Weights = A, *, stream: bool = False, **sampling: Any) -> Caller:
        caller = Caller()
        tensors = {
            contract.TEXT_INPUT: text_array("hello"),
            contract.SAMPLING_PARAMETERS: text_array(json.dumps(sampling)),
            contract.EXCLUDE_INPUT_IN_OUTPUT: flag_array(True),
            contract.STREAM: flag_array(stream),
        }
        self.engine.submit(READER.read(tensors, caller), weights)
        return caller

    def on_loop(self, act: Callable[[], None]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self.engine._loop.call_soon_threadsafe(run)
        assert done.wait(LONGEST_WAIT_SECONDS)

    def let_begin(self) -> None:
        """Let every request go as far as it can."""
        for _ in range(10):
            self.on_loop(lambda: None)


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    if not running.vllm.is_closed:
        running.engine.close()


def test_an_answer_comes_whole_or_in_pieces(running: Running) -> None:
    assert running.ask(max_tokens=5).text == "aaaaa"
    streamed = running.ask(max_tokens=5, stream=True)
    assert streamed.text == "aaaaa"
    assert len(streamed.answers) > 1


def test_a_stop_text_ends_the_work(running: Running) -> None:
    assert running.ask(max_tokens=50, stop=["aaa"]).text == ""
    running.let_begin()
    assert running.vllm.aborted == 1


def test_scores_come_with_their_counts(running: Running) -> None:
    caller = Caller()
    tensors = {contract.TEXT_INPUT: text_array("hello"), contract.CONTINUATIONS: text_array("x", "yz")}
    running.engine.submit(READER.read(tensors, caller), A)
    assert caller.ended.wait(LONGEST_WAIT_SECONDS)
    assert list(caller.answers[0][contract.CONTINUATION_NUM_TOKENS]) == [1, 2]
    running.let_begin()  # the answer comes before the figures
    assert running.metrics.values[seams.SCORED_CONTINUATIONS] == 2


def test_requests_for_other_weights_wait_until_nothing_runs_and_share_one_reading(running: Running) -> None:
    gate = asyncio.Event()
    running.vllm.gate = gate
    first = [running.ask(A, max_tokens=2) for _ in range(2)]
    others = [running.ask(B, max_tokens=2) for _ in range(3)]
    running.let_begin()
    running.on_loop(gate.set)
    assert [each.text for each in first] == ["aa", "aa"]
    assert [each.text for each in others] == ["bb", "bb", "bb"]
    assert running.vllm.reloads == ["b"]
    assert running.vllm.most_in_flight["a"] == 2


def test_weights_that_cannot_be_read_fail_their_own_requests_only(running: Running) -> None:
    running.vllm.reload_failure = InferenceFailure("torn file", reason="CHECKPOINT_INVALID")
    assert running.ask(B, max_tokens=2).reason == "CHECKPOINT_INVALID"
    running.vllm.reload_failure = None
    # What the failed reading left behind is not taken for the old weights.
    assert running.ask(A, max_tokens=2).text == "aa"
    assert running.vllm.reloads == ["a"]


def test_trying_weights_out_puts_them_in_place(running: Running) -> None:
    running.engine.try_out(B)
    assert running.vllm.weights == "b"
    running.vllm.is_crashed = True
    with pytest.raises(InferenceFailure, match="has died"):
        running.engine.try_out(B)
    assert running.engine.is_dead


def test_a_caller_who_gives_up_ends_the_work(running: Running) -> None:
    running.vllm.gate = asyncio.Event()
    caller, other = running.ask(max_tokens=3), running.ask(max_tokens=3)
    caller.gave_up = True
    assert caller.ended.wait(LONGEST_WAIT_SECONDS)
    assert running.vllm.aborted == 1
    running.on_loop(running.vllm.gate.set)
    assert other.text == "aaa"
    running.let_begin()
    assert running.metrics.values[seams.CANCELLED_REQUESTS] == 1


def test_a_dead_vllm_is_told_and_remembered(running: Running) -> None:
    running.vllm.is_crashed = True
    assert running.ask(max_tokens=3).reason == "ENGINE_CRASHED"
    assert running.engine.is_dead


def test_closing_fails_what_is_left(running: Running) -> None:
    running.vllm.gate = asyncio.Event()
    caller = running.ask(max_tokens=3)
    running.on_loop(lambda: None)
    running.engine.close()
    assert caller.reason == "MODEL_NOT_LOADED"
    assert running.ask(max_tokens=3).reason == "MODEL_NOT_LOADED"


def test_the_schedulers_figures_become_metrics(running: Running) -> None:
    running.on_loop(lambda: running.watch({"running": 3, "waiting": 2, "kv_usage": 0.5, "generated_tokens": 4}))
    running.on_loop(lambda: running.watch({"running": 1, "generated_tokens": 4}))
    values = running.metrics.values
    assert (values[seams.RUNNING_SEQUENCES], values[seams.WAITING_REQUESTS]) == (1, 2)
    assert values[seams.KV_CACHE_USAGE] == 0.5
    assert values[seams.GENERATED_TOKENS] == 8


def test_a_stuck_engine_holds_requests_and_computes_nothing(running: Running) -> None:
    running.vllm.gate = asyncio.Event()
    stuck, impatient = running.ask(max_tokens=2), running.ask(max_tokens=2)
    running.let_begin()
    assert running.metrics.values[seams.WAITING_REQUESTS] == 2
    impatient.gave_up = True  # who gives up shows the engine's figures, but is no step of it
    assert impatient.ended.wait(LONGEST_WAIT_SECONDS)
    running.let_begin()
    assert running.metrics.values[seams.BUSY_SECONDS] == 0
    assert running.metrics.values[seams.WAITING_REQUESTS] > 0
    running.on_loop(running.vllm.gate.set)
    assert stuck.text == "aa"
    running.let_begin()
    assert running.metrics.values[seams.BUSY_SECONDS] > 0
    assert running.metrics.values[seams.WAITING_REQUESTS] == 0


def test_a_checkpoint_that_changed_on_disk_is_not_read(running: Running) -> None:
    running.stamps["b"] = 1
    assert running.ask(B, max_tokens=2).reason == "CHECKPOINT_CHANGED"
    assert running.vllm.reloads == []
    assert running.ask(A, max_tokens=2).text == "aa"


def test_a_checkpoint_that_changes_while_it_is_read_is_not_used(running: Running) -> None:
    running.vllm.during_reload = lambda: running.stamps.update(b=1)
    assert running.ask(B, max_tokens=2).reason == "CHECKPOINT_CHANGED"
    assert running.vllm.reloads == ["b"]
    running.vllm.during_reload = lambda: None
    # What is in place now is neither of them.
    assert running.ask(A, max_tokens=2).text == "aa"
    assert running.vllm.reloads == ["b", "a"]


def test_a_checkpoint_that_changed_while_vllm_started_is_not_used() -> None:
    engine = VllmEngine(lambda watch: FakeTokenEngine(), A, Metrics(), stamp_of=lambda path: 1)
    with pytest.raises(InferenceFailure, match="changed"):
        engine.try_out(A)
    engine.close()


def test_totals_go_on_where_the_engine_before_ended(running: Running) -> None:
    running.on_loop(lambda: running.watch({"running": 3, "generated_tokens": 4}))
    running.ask(max_tokens=2).text  # noqa: B018
    running.engine.close()
    metrics = Metrics()
    later = VllmEngine(
        lambda watch: FakeTokenEngine(), A, metrics, stamp_of=lambda path: 0, totals=running.engine.totals
    )
    later.close()
    assert later.totals[seams.GENERATED_TOKENS] == 4
    assert later.totals[seams.BUSY_SECONDS] >= running.engine.totals[seams.BUSY_SECONDS] > 0
    assert seams.RUNNING_SEQUENCES not in later.totals


def test_figures_that_cannot_be_published_cost_no_request(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(values: Mapping[str, float]) -> None:
        raise RuntimeError("refused")

    monkeypatch.setattr(running.metrics, "publish", refuse)
    running.on_loop(lambda: running.watch({"running": 1}))
    assert running.ask(max_tokens=2).text == "aa"
    assert running.ask(max_tokens=2).text == "aa"


def test_every_request_that_meets_a_close_is_answered(running: Running) -> None:
    callers: list[Caller] = []
    is_asking = threading.Event()

    def ask() -> None:
        while not running.vllm.is_closed:
            callers.append(running.ask(max_tokens=2))
            is_asking.set()
        callers.append(running.ask(max_tokens=2))

    asking = threading.Thread(target=ask)
    asking.start()
    assert is_asking.wait(LONGEST_WAIT_SECONDS)
    running.engine.close()
    asking.join(LONGEST_WAIT_SECONDS)
    assert all(caller.ended.wait(LONGEST_WAIT_SECONDS) for caller in callers)
    assert callers[-1].reason == "MODEL_NOT_LOADED"


async def test_nobody_overtakes_a_request_that_waited_for_its_turn() -> None:
    switched = []

    async def switch(weights: object) -> None:
        switched.append(weights)

    turns = WeightTurns(switch, turn_seconds=0.0)
    order = []
    hold = asyncio.Event()

    async def use(weights: str) -> None:
        async with turns.using(weights):
            order.append(weights)
            await hold.wait()

    tasks = []
    for weights in ("a", "b", "a"):
        tasks.append(asyncio.create_task(use(weights)))
        await asyncio.sleep(0)
    tasks.append(gone := asyncio.create_task(use("c")))
    await asyncio.sleep(0)
    gone.cancel()
    hold.set()
    await asyncio.wait(tasks)
    assert order == ["a", "b", "a"]
    assert switched == ["a", "b", "a"]


def test_the_engines_time_is_shared_by_those_in_flight() -> None:
    now = 0.0
    shares = TimeShares(lambda: now)
    first = shares.enter()
    now = 2.0
    second = shares.enter()
    now = 6.0
    assert (shares.seconds_since(first), shares.seconds_since(second)) == (4.0, 2.0)
    shares.leave()
    shares.leave()
    now = 60.0
    assert shares.busy_seconds == 6.0

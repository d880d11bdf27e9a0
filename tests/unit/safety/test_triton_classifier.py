"""Loading the guard when it is missing, lost or refused, on a fake inference host."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from services.inference import model_loading
from services.inference.contract import ModelEntry
from services.inference.model_loading import ModelLoading
from services.inference.results import Classified
from services.runtime.errors import FailedPreconditionError, FleetError, InternalError, UnavailableError
from services.runtime.usage import Usage
from services.safety.errors import GUARD_LOADING, GuardLoadError, GuardUnavailableError, UnusableAnswerError
from services.safety.triton_classifier import TritonClassifier
from tests.patience import LONGEST_WAIT_SECONDS, until

LABELS = ("unsafe", "hate")
ENTRY = ModelEntry("{}", {})


class FakeHost:
    """An inference host in memory; what goes wrong is up to the test."""

    def __init__(self) -> None:
        self.is_up = True
        self.loaded = False
        self.crashed = False
        self.labels = LABELS
        self.load_error: FleetError | None = None
        self.gate: asyncio.Event | None = None
        self.loading = asyncio.Event()
        self.calls: list[str] = []
        self.columns = len(LABELS)

    async def is_ready(self) -> bool:
        return self.is_up

    async def is_model_ready(self, model: str) -> bool:
        return self.is_up and self.loaded

    async def load_model(self, name: str, entry: ModelEntry, *, timeout_seconds: float) -> None:
        self.calls.append("load")
        self.loading.set()
        self._check_up()
        if self.gate is not None:
            await self.gate.wait()
        if self.load_error is not None:
            raise self.load_error
        self.loaded, self.crashed = True, False

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        self.calls.append("unload")
        self.loaded = False

    async def classifier_labels(self, model: str, *, timeout_seconds: float) -> tuple[str, ...]:
        return self.labels

    async def classify(
        self, model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int
    ) -> Classified:
        self.calls.append("classify")
        self._check_up()
        if self.crashed:
            raise UnavailableError("dead", reason="ENGINE_CRASHED")
        if not self.loaded:
            raise UnavailableError("unknown model", reason="MODEL_NOT_LOADED")
        windows = np.array([min(max_windows, 1 + text.count(" ")) for text in texts], np.uint32)
        rows = int(windows.sum())
        return Classified(
            np.full((rows, self.columns), 0.25, np.float32),
            np.arange(7, 7 + rows, dtype=np.uint32),
            windows,
            np.zeros(len(texts), np.bool_),
            np.linspace(0, 0.5, rows, dtype=np.float32),
            engine_seconds=float(sum(range(7, 7 + rows))),
        )

    def _check_up(self) -> None:
        if not self.is_up:
            raise UnavailableError("connection refused", reason="INFERENCE_UNAVAILABLE")


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
async def classifier(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[TritonClassifier]:
    # No test takes so long that what was refused is tried again.
    monkeypatch.setattr(model_loading, "_FIRST_PAUSE_SECONDS", 3600.0)
    made = TritonClassifier(host, "guard-x", ENTRY, LABELS, load_timeout_seconds=90, ready_wait_seconds=60)
    yield made
    await made.close()


async def settled(classifier: TritonClassifier) -> bool:
    """Ask until the load that asking has begun is over."""
    for _ in range(20):
        if await classifier.is_ready():
            return True
        await asyncio.sleep(0)
    return False


async def test_asking_whether_it_is_ready_loads_it(host: FakeHost, classifier: TritonClassifier) -> None:
    assert not await classifier.is_ready()
    assert await settled(classifier)
    assert host.calls == ["load"]


async def test_a_model_that_is_there_is_not_loaded_again(host: FakeHost, classifier: TritonClassifier) -> None:
    host.loaded = True
    assert await classifier.is_ready()
    [answer] = await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    assert (list(answer.probabilities), answer.num_tokens, answer.truncated) == ([0.25, 0.25], 7, False)
    assert host.calls == ["classify"]


async def test_windows_come_back_with_their_text(host: FakeHost, classifier: TritonClassifier) -> None:
    host.loaded = True
    answers = await classifier.classify(["x", "x y z", "x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    told = [[each.num_tokens for each in (answer, *answer.later)] for answer in answers]
    assert told == [[7], [8, 9, 10], [11]]
    unknown = [each.unknown_share for answer in answers for each in (answer, *answer.later)]
    assert unknown == [0.0, 0.125, 0.25, 0.375, 0.5]
    # The request took a second a token.
    shares = [each.usage for answer in answers for each in (answer, *answer.later)]
    assert shares == [
        Usage(prompt_tokens=count, computed_prompt_tokens=count, engine_seconds=count) for count in range(7, 12)
    ]


async def test_a_lost_model_is_loaded_once_for_all_callers(host: FakeHost, classifier: TritonClassifier) -> None:
    host.gate = asyncio.Event()
    calls = [asyncio.create_task(classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)) for _ in range(8)]
    await host.loading.wait()
    assert not await classifier.is_ready()
    host.gate.set()
    assert len(await asyncio.gather(*calls)) == 8
    assert host.calls.count("load") == 1


async def test_a_dead_process_is_replaced(host: FakeHost, classifier: TritonClassifier) -> None:
    host.loaded = host.crashed = True
    await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    assert host.calls == ["classify", "unload", "load", "classify"]


async def test_an_unreachable_host_is_unavailable_and_comes_back(host: FakeHost, classifier: TritonClassifier) -> None:
    host.is_up = False
    with pytest.raises(GuardUnavailableError) as caught:
        await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    assert caught.value.retry_after_seconds
    assert caught.value.metadata["cause"] == "INFERENCE_UNAVAILABLE"
    for _ in range(5):
        assert not await settled(classifier)
    host.is_up = True
    assert await settled(classifier)
    await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)


async def test_a_load_that_takes_longer_than_the_call_goes_on(host: FakeHost, classifier: TritonClassifier) -> None:
    host.gate = asyncio.Event()
    with pytest.raises(GuardUnavailableError):
        await classifier.classify(["x"], timeout_seconds=0.01)
    host.gate.set()
    assert await settled(classifier)
    assert host.calls.count("load") == 1


async def test_a_refused_model_is_not_tried_at_every_call(host: FakeHost, classifier: TritonClassifier) -> None:
    host.load_error = FailedPreconditionError("no such folder", reason="MODEL_LOAD_FAILED")
    for _ in range(5):
        with pytest.raises(GuardLoadError, match="no such folder"):
            await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
        assert not await classifier.is_ready()
    assert host.calls.count("load") == 1


@pytest.mark.parametrize("by", ["asking", "a call"])
async def test_what_a_host_refused_says_nothing_of_the_one_that_takes_its_place(
    by: str, host: FakeHost, classifier: TritonClassifier
) -> None:
    host.load_error = FailedPreconditionError("its process died", reason="MODEL_LOAD_FAILED")
    assert not await settled(classifier)
    host.is_up, host.load_error = False, None
    if by == "asking":
        assert not await classifier.is_ready()
    else:
        with pytest.raises(GuardUnavailableError):
            await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    host.is_up = True
    assert await settled(classifier)


@pytest.mark.parametrize(("reason", "longest"), [("MODEL_LOAD_FAILED", 8.0), ("CHECKPOINT_INVALID", 60.0)])
async def test_what_the_host_failed_at_is_tried_again_sooner_than_what_the_model_refused(
    reason: str, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(restart: bool) -> None:
        raise FailedPreconditionError("no", reason=reason)

    now = 0.0
    monkeypatch.setattr(model_loading, "time", SimpleNamespace(monotonic=lambda: now))
    loading = ModelLoading("guard-x", GUARD_LOADING, refuse, ready_wait_seconds=60)
    pauses = []
    for _ in range(8):
        began = now
        loading.begin()
        while not loading.is_running:
            now += 1.0
            loading.begin()
        pauses.append(now - began)
        await until(lambda: not loading.is_running)
    assert (pauses[:3], pauses[-1]) == ([0.0, 2.0, 4.0], longest)


async def test_a_foreign_model_of_that_name_is_refused(host: FakeHost, classifier: TritonClassifier) -> None:
    host.labels = ("cat", "dog")
    with pytest.raises(GuardLoadError, match="cat, dog") as caught:
        await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    assert caught.value.reason == "GUARD_LABELS_DIFFER"


async def test_an_answer_of_another_shape_is_unusable(host: FakeHost, classifier: TritonClassifier) -> None:
    host.loaded, host.columns = True, 3
    with pytest.raises(UnusableAnswerError):
        await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)


async def test_an_answer_that_does_not_tell_of_every_window_what_was_read_is_unusable(
    host: FakeHost, classifier: TritonClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.loaded = True
    whole = await host.classify("guard-x", ["x y"], timeout_seconds=LONGEST_WAIT_SECONDS, max_windows=2)

    async def classify(*_: object, **__: object) -> Classified:
        return replace(whole, unknown_share=whole.unknown_share[:1])

    monkeypatch.setattr(host, "classify", classify)
    with pytest.raises(UnusableAnswerError):
        await classifier.classify(["x y"], timeout_seconds=LONGEST_WAIT_SECONDS)


async def test_other_failures_are_the_callers_to_judge(
    host: FakeHost, classifier: TritonClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int) -> Classified:
        raise InternalError("x", reason="INFERENCE_FAILED")

    monkeypatch.setattr(host, "classify", fail)
    with pytest.raises(InternalError):
        await classifier.classify(["x"], timeout_seconds=LONGEST_WAIT_SECONDS)
    assert host.calls == []

"""The guards' checkpoints at a fake host: loaded when missing, anew after a loss, and one restart for all of them."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from services.inference.contract import CausalLMArguments, Prompt
from services.inference.host_contract import HostReport
from services.inference.results import ContinuationScore, Generated, ScoredContinuations
from services.inference.sampling import SamplingParameters
from services.runtime.errors import FailedPreconditionError, FleetError, InternalError, NotFoundError, UnavailableError
from services.runtime.usage import Usage
from services.safety.errors import GuardLoadError, GuardUnavailableError
from services.safety.language_model import GeneratedAnswer, Likelihoods
from services.safety.triton_language_model import GUARD_HOST_MODEL, GuardHost, LoadLimits, TritonLanguageModel
from tests.patience import LONGEST_WAIT_SECONDS


class FakeInference:
    """An inference server in memory with room for one checkpoint host."""

    def __init__(self) -> None:
        self.is_up = True
        self.has_host = False
        self.crashed = False
        self.loaded: set[str] = set()
        self.load_error: FleetError | None = None
        self.calls: list[str] = []
        self.sampling: list[SamplingParameters] = []
        self.finish: str = "stop"

    async def start(self, *, timeout_seconds: float) -> None:
        self.calls.append("start")
        self.has_host, self.crashed = True, False

    async def stop(self, *, timeout_seconds: float) -> None:
        self.calls.append("stop")
        self.has_host, self.crashed = False, False
        self.loaded.clear()

    async def load(self, name: str, arguments: CausalLMArguments, *, timeout_seconds: float) -> HostReport:
        self._check("")
        self.calls.append(f"load {name}")
        if self.load_error is not None:
            raise self.load_error
        await asyncio.sleep(0)
        self.loaded.add(name)
        return await self.list(timeout_seconds=timeout_seconds)

    async def list(self, *, timeout_seconds: float) -> HostReport:
        self._check("")
        return HostReport(tuple(sorted(self.loaded)), 2**30)

    async def is_ready(self) -> bool:
        return self.is_up

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        sampling: SamplingParameters,
        *,
        timeout_seconds: float,
        checkpoint: str | None,
    ) -> Generated:
        assert model == GUARD_HOST_MODEL
        self._check(checkpoint)
        self.sampling.append(sampling)
        return Generated("safe", self.finish, 3, 1, engine_seconds=0.5, num_cached_tokens=2)  # type: ignore[arg-type]

    async def score_continuations(
        self,
        model: str,
        context: Prompt,
        continuations: Sequence[str],
        *,
        timeout_seconds: float,
        checkpoint: str | None,
    ) -> ScoredContinuations:
        self._check(checkpoint)
        scores = tuple(ContinuationScore(-float(len(each)), True, 1) for each in continuations)
        return ScoredContinuations(scores, 3, 0, engine_seconds=0.25, num_cached_tokens=3)

    def _check(self, checkpoint: str | None) -> None:
        if not self.is_up:
            raise UnavailableError("connection refused", reason="INFERENCE_UNAVAILABLE")
        if self.crashed:
            raise UnavailableError("dead", reason="ENGINE_CRASHED")
        if not self.has_host or (checkpoint and checkpoint not in self.loaded):
            raise NotFoundError("not loaded", reason="MODEL_NOT_LOADED")


@pytest.fixture
def server() -> FakeInference:
    return FakeInference()


@pytest.fixture
async def models(server: FakeInference) -> AsyncIterator[list[TritonLanguageModel]]:
    host = GuardHost(server)
    limits = LoadLimits(load_seconds=9, ready_wait_seconds=LONGEST_WAIT_SECONDS)
    made = [
        TritonLanguageModel(server, host, name, CausalLMArguments(model=f"/{name}"), limits) for name in ("one", "two")
    ]
    yield made
    for each in made:
        await each.close()


async def ask(model: TritonLanguageModel) -> GeneratedAnswer:
    return await model.answer(
        "Hi", max_tokens=7, stop=("\n",), keep_special_tokens=True, timeout_seconds=LONGEST_WAIT_SECONDS
    )


async def test_the_first_question_starts_the_host_and_loads_the_checkpoint(
    server: FakeInference, models: list[TritonLanguageModel]
) -> None:
    said = await ask(models[0])
    assert said == GeneratedAnswer("safe", True, prompt_tokens=3, answer_tokens=1, usage=Usage(3, 1, 0.5, 1, 1, 2))
    assert server.calls == ["start", "load one"]
    [sampling] = server.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0.0, 7, ("\n",))
    assert not sampling.skip_special_tokens
    scored = await models[0].log_likelihoods("Hi", ["a", "bb"], timeout_seconds=LONGEST_WAIT_SECONDS)
    assert scored == Likelihoods((-1.0, -2.0), Usage(3, 2, 0.25, 0, 2, 3))
    server.finish = "length"
    assert not (await ask(models[0])).is_complete


async def test_asking_whether_it_is_ready_loads_it(server: FakeInference, models: list[TritonLanguageModel]) -> None:
    for _ in range(20):
        if await models[0].is_ready():
            break
        await asyncio.sleep(0)
    assert await models[0].is_ready()
    assert server.calls == ["start", "load one"]


async def test_a_dead_process_is_replaced_once_for_all_guards(
    server: FakeInference, models: list[TritonLanguageModel]
) -> None:
    await asyncio.gather(*(ask(each) for each in models))
    server.calls.clear()
    server.crashed = True
    await asyncio.gather(*(ask(each) for each in models * 3))
    assert (server.calls.count("stop"), server.calls.count("start")) == (1, 1)
    assert sorted(set(server.calls)) == ["load one", "load two", "start", "stop"]


async def test_a_server_that_is_away_is_unavailable_and_comes_back(
    server: FakeInference, models: list[TritonLanguageModel]
) -> None:
    server.is_up = False
    with pytest.raises(GuardUnavailableError) as caught:
        await ask(models[0])
    assert caught.value.retry_after_seconds
    assert not await models[0].is_ready()
    server.is_up = True
    assert (await ask(models[0])).text == "safe"


async def test_a_refused_checkpoint_is_not_tried_at_every_call(
    server: FakeInference, models: list[TritonLanguageModel]
) -> None:
    server.load_error = FailedPreconditionError("no such folder", reason="CHECKPOINT_NOT_FOUND")
    for _ in range(3):
        with pytest.raises(GuardLoadError, match="no such folder"):
            await ask(models[0])
    assert server.calls.count("load one") == 1


async def test_other_failures_are_the_guards_to_judge(
    server: FakeInference, models: list[TritonLanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(models[0])
    server.calls.clear()

    async def fail(*args: object, **kwargs: object) -> Generated:
        raise InternalError("x", reason="INFERENCE_FAILED")

    monkeypatch.setattr(server, "generate", fail)
    with pytest.raises(InternalError):
        await ask(models[0])
    assert server.calls == []

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference.contract import CausalLMArguments
from services.inference.engines import causal_lm, model_choice, seams
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.engines.loading import load_causal_lm
from services.inference.engines.packed.model import PackedModel
from services.inference.engines.padded_model import PaddedModel
from services.inference.engines.sequence_model import Prefilled, SequenceModel
from services.inference.failures import InferenceFailure
from tests.patience import LONGEST_WAIT_SECONDS


class ObservedModel:
    """Stands before the real model: can hold passes up, make them fail, and counts what each pass finishes."""

    def __init__(self, real: SequenceModel) -> None:
        self.real = real
        self.finished: list[list[int]] = []
        self.decoded_rows: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: BaseException | None = None
        self.step_error: BaseException | None = None
        self.keep_error: BaseException | None = None
        self.cached_errors: list[BaseException | None] = []
        self.asked_for: list[Any] = []
        self.is_locked: Any = lambda: False
        self.logits_factor = 1.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def _enter(self) -> None:
        self.entered.set()
        assert self.gate.wait(timeout=LONGEST_WAIT_SECONDS)
        if self.error is not None:
            raise self.error

    def prefill(self, groups: Any) -> Iterator[Prefilled]:
        if groups:
            self._enter()
        for done in self.real.prefill(groups):
            self.finished.append([len(group.context) for group in done.groups])
            yield replace(done, logits=done.logits * self.logits_factor, keep=partial(self._keep, done.keep))

    def _keep(self, keep: Any, rows: Any) -> None:
        if self.keep_error is not None:
            raise self.keep_error
        keep(rows)

    def score(self, groups: Any) -> Iterator[Any]:
        if groups:
            self._enter()
        for done in self.real.score(groups):
            self.finished.append([len(group.context) for group in done])
            for group in done:
                for index, result in group.results.items():
                    broken = replace(result, log_likelihood=result.log_likelihood * self.logits_factor)
                    group.results[index] = broken
            yield done

    def cached_tokens(self, prompt: Any) -> int:
        assert not self.is_locked()
        self.asked_for.append(prompt)
        if self.cached_errors and (error := self.cached_errors.pop(0)) is not None:
            raise error
        return self.real.cached_tokens(prompt)

    def decode(self, last_tokens: Any) -> torch.Tensor:
        self.decoded_rows.append(len(last_tokens))
        if self.step_error is not None:
            raise self.step_error
        return self.real.decode(last_tokens)


@pytest.fixture(params=["packed", "padded"])
def observe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[ObservedModel]:
    """Stand before the model of every engine that is made from here on."""
    observed: list[ObservedModel] = []
    if request.param == "padded":
        monkeypatch.setattr(model_choice, "sees_everything", lambda loaded: False)

    def choose(loaded: Any, arguments: Any) -> Any:
        real = model_choice.choose_model(loaded, arguments)
        assert isinstance(real, {"packed": PackedModel, "padded": PaddedModel}[request.param])
        observed.append(ObservedModel(real))
        return observed[-1]

    monkeypatch.setattr(causal_lm, "choose_model", choose)
    return observed


@pytest.fixture
def metrics(new_metrics: Any) -> Any:
    return new_metrics()


@pytest.fixture
def engine(tiny_checkpoint: Path, observe: list[ObservedModel], metrics: Any) -> Iterator[CausalLMEngine]:
    arguments = CausalLMArguments(model=str(tiny_checkpoint), max_num_seqs=3, max_num_batched_tokens=48)
    engine = CausalLMEngine.load(arguments, metrics)
    yield engine
    observe[0].gate.set()
    engine.close()


@pytest.fixture
def model(engine: CausalLMEngine, observe: list[ObservedModel]) -> ObservedModel:
    return observe[0]


def generation(texts: Any, prompt: str = "fox", max_tokens: int = 4) -> dict[str, Any]:
    sampling = f'{{"max_tokens": {max_tokens}, "ignore_eos": true, "seed": 1}}'
    return {"text_input": texts(prompt), "sampling_parameters": texts(sampling)}


def scoring(texts: Any, context: str = "The quick") -> dict[str, Any]:
    return {"text_input": texts(context), "continuations": texts(" fox", " dog")}


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (RuntimeError("kernel"), "ENGINE_FAILED", "INTERNAL"),
        (torch.OutOfMemoryError("alloc"), "ENGINE_OUT_OF_MEMORY", "RESOURCE_EXHAUSTED"),
    ],
)
def test_a_failing_batch_fails_its_requests_and_the_engine_goes_on(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any,
    error: BaseException, reason: str, code: str,
) -> None:  # fmt: skip
    for request in (generation(texts), scoring(texts)):
        model.error = error
        failed = new_answers()
        engine.submit(request, failed)
        with pytest.raises(InferenceFailure) as caught:
            failed.wait()
        assert (caught.value.reason, caught.value.code) == (reason, code)
        model.error = None
        answered = new_answers()
        engine.submit(request, answered)
        assert len(answered.wait()) == 1


def test_memory_that_ends_while_a_batch_enters_leaves_nobody_without_an_outcome(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    model.gate.clear()
    first = new_answers()
    engine.submit(scoring(texts), first)
    assert model.entered.wait(timeout=LONGEST_WAIT_SECONDS)
    model.keep_error = torch.OutOfMemoryError("row store")
    # One that its first token ends, and two that go on.
    ended, *entering = [new_answers() for _ in range(3)]
    for answers, max_tokens in zip((ended, *entering), (1, 4, 4), strict=True):
        engine.submit(generation(texts, max_tokens=max_tokens), answers)
    model.gate.set()
    for answers in entering:
        with pytest.raises(InferenceFailure) as caught:
            answers.wait()
        assert caught.value.reason == "ENGINE_OUT_OF_MEMORY"
    assert len(ended.wait()) == 1
    model.keep_error = None
    answered = new_answers()
    engine.submit(generation(texts), answered)
    assert len(answered.wait()) == 1
    assert ended.failure is None


def test_what_runs_is_asked_about_once_and_never_while_nothing_waits(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    wake: Any = engine._scheduler._wake
    model.is_locked = wake._is_owned
    alone = new_answers()
    engine.submit(generation(texts, max_tokens=60), alone)
    assert len(alone.wait()) == 1
    assert len(model.asked_for) == 1
    model.gate.clear()
    # Three run at once; the fourth waits, and is not even looked at while all places are taken.
    asked = [new_answers() for _ in range(4)]
    for answers, max_tokens in zip(asked, (60, 60, 50, 4), strict=True):
        engine.submit(generation(texts, max_tokens=max_tokens), answers)
    model.gate.set()
    for answers in asked:
        assert len(answers.wait()) == 1
    assert len(model.asked_for) <= 1 + 2 * 4 + 1


def test_an_error_before_a_batch_enters_loses_no_request(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    model.gate.clear()
    engine.submit(scoring(texts), new_answers())
    assert model.entered.wait(timeout=LONGEST_WAIT_SECONDS)
    model.cached_errors = [None, torch.OutOfMemoryError("prefix cache")]
    asked = [new_answers() for _ in range(3)]
    for answers in asked:
        engine.submit(generation(texts), answers)
    model.gate.set()
    for answers in asked:
        assert len(answers.wait()) == 1
    assert not model.cached_errors


def test_a_gpu_that_is_lost_ends_the_process(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exited(BaseException):
        """The process would be gone."""

    statuses: list[int] = []

    def leave(status: int) -> None:
        statuses.append(status)
        raise Exited

    monkeypatch.setattr(engine._scheduler, "_end_process", leave)
    monkeypatch.setattr(threading, "excepthook", lambda raised: None)
    model.error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    answers = new_answers()
    engine.submit(generation(texts), answers)
    engine._scheduler._thread.join(timeout=LONGEST_WAIT_SECONDS)
    assert statuses == [1]
    # The caller hears it from the client, which sees that the process is gone.
    assert answers.failure is None


def test_a_failing_step_fails_the_running_and_the_engine_goes_on(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    model.step_error = RuntimeError("step")
    failed = new_answers()
    engine.submit(generation(texts), failed)
    with pytest.raises(InferenceFailure, match="failed on this batch"):
        failed.wait()
    model.step_error = None
    answered = new_answers()
    engine.submit(generation(texts), answered)
    assert len(answered.wait()) == 1


def test_what_arrives_during_a_pass_is_computed_together_by_length(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    model.gate.clear()
    first = new_answers()
    engine.submit(scoring(texts), first)
    assert model.entered.wait(timeout=LONGEST_WAIT_SECONDS)
    contexts = ["The quick", "Question: Which planet is the largest? A. Mars", "fox", "The answer is 5."]
    waiting = [new_answers() for _ in contexts]
    for context, answers in zip(contexts, waiting, strict=True):
        engine.submit(scoring(texts, context), answers)
    model.gate.set()
    for answers in waiting:
        answers.wait()
    later = [done for done in model.finished[1:] if done]
    assert sum(map(len, later)) == 4
    assert len(later) < 4
    if isinstance(model.real, PaddedModel):
        assert all(batch == sorted(batch) for batch in later)
        assert [max(batch) for batch in later] == sorted(max(batch) for batch in later)
        assert all(len(batch) * max(batch) <= 48 or len(batch) == 1 for batch in later)


def test_no_more_sequences_run_than_allowed(
    engine: CausalLMEngine, model: ObservedModel, metrics: Any, new_answers: Any, texts: Any
) -> None:
    model.gate.clear()
    asked = [new_answers() for _ in range(8)]
    for answers in asked:
        engine.submit(generation(texts, max_tokens=20), answers)
    model.gate.set()
    for answers in asked:
        answers.wait()
    assert max(model.decoded_rows) == 3
    metrics.wait_for(lambda values: values[seams.GENERATED_TOKENS] == 160 and values[seams.RUNNING_SEQUENCES] == 0)


def test_the_key_value_memory_bounds_what_runs_together_but_never_a_single_request(
    tiny_checkpoint: Path, observe: list[ObservedModel], metrics: Any, new_answers: Any, texts: Any
) -> None:
    loaded = load_causal_lm(CausalLMArguments(model=str(tiny_checkpoint)))
    # Room for two sequences of 2 prompt and 98 answer tokens, not for three.
    gib = 250 * loaded.kv_token_bytes / (1 << 30)
    engine = CausalLMEngine(loaded, CausalLMArguments(model=str(tiny_checkpoint), kv_cache_gib=gib), metrics)
    observe[0].gate.clear()
    asked = [new_answers() for _ in range(5)]
    for answers in asked:
        engine.submit(generation(texts, max_tokens=98), answers)
    observe[0].gate.set()
    for answers in asked:
        answers.wait()
    assert max(observe[0].decoded_rows) == 2
    tight = CausalLMEngine(loaded, CausalLMArguments(model=str(tiny_checkpoint), kv_cache_gib=0.0), metrics)
    alone = new_answers()
    tight.submit(generation(texts), alone)
    assert len(alone.wait()) == 1
    for each in (engine, tight):
        each.close()


def test_a_caller_that_left_while_waiting_costs_nothing(
    engine: CausalLMEngine, model: ObservedModel, metrics: Any, new_answers: Any, texts: Any
) -> None:
    gone = [new_answers(), new_answers()]
    for answers, request in zip(gone, (generation(texts), scoring(texts)), strict=True):
        answers.is_gone = True
        engine.submit(request, answers)
        assert answers.wait() == []
    assert model.finished == []
    metrics.wait_for(lambda values: values[seams.CANCELLED_REQUESTS] == 2)


def test_closing_answers_what_waits_and_what_comes_later(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    model.gate.clear()
    asked = [new_answers() for _ in range(3)]
    for answers, request in zip(
        asked, (generation(texts, max_tokens=200), scoring(texts), generation(texts)), strict=True
    ):
        engine.submit(request, answers)
    assert model.entered.wait(timeout=LONGEST_WAIT_SECONDS)
    closing = threading.Thread(target=engine.close)
    closing.start()
    model.gate.set()
    closing.join(timeout=LONGEST_WAIT_SECONDS)
    late = new_answers()
    engine.submit(generation(texts), late)
    reasons = set()
    for answers in [*asked, late]:
        try:
            answers.wait()
        except InferenceFailure as failure:
            reasons.add(failure.reason)
    assert late.failure is not None
    assert reasons == {"INFERENCE_STOPPING"}


def test_a_broken_checkpoint_is_reported_not_sampled_from(
    engine: CausalLMEngine, model: ObservedModel, new_answers: Any, texts: Any
) -> None:
    model.logits_factor = math.nan
    for request in (generation(texts), scoring(texts)):
        answers = new_answers()
        engine.submit(request, answers)
        with pytest.raises(InferenceFailure) as caught:
            answers.wait()
        assert caught.value.reason == "NONFINITE_LOGITS"

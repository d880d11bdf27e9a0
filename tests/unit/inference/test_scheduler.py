import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from services.inference.contract import CausalLMArguments
from services.inference.engines import seams
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.engines.forward import ForwardPass
from services.inference.engines.loading import load_causal_lm
from services.inference.failures import InferenceFailure


class ObservedForward:
    """Stands before the real forward pass: can hold it up, make it fail, and counts the rows of each pass."""

    def __init__(self) -> None:
        self.prefills: list[list[int]] = []
        self.decoded_rows: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error: BaseException | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real_prefill, real_decode = ForwardPass.prefill, ForwardPass.decode

        def prefill(forward: ForwardPass, prompts: Any) -> Any:
            self.prefills.append([len(prompt) for prompt in prompts])
            self.entered.set()
            assert self.gate.wait(timeout=30)
            if self.error is not None:
                raise self.error
            return real_prefill(forward, prompts)

        def decode(forward: ForwardPass, last_tokens: Any, cache: Any) -> Any:
            self.decoded_rows.append(len(last_tokens))
            return real_decode(forward, last_tokens, cache)

        monkeypatch.setattr(ForwardPass, "prefill", prefill)
        monkeypatch.setattr(ForwardPass, "decode", decode)


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> ObservedForward:
    observed = ObservedForward()
    observed.install(monkeypatch)
    return observed


@pytest.fixture
def metrics(new_metrics: Any) -> Any:
    return new_metrics()


@pytest.fixture
def engine(tiny_checkpoint: Path, forward: ObservedForward, metrics: Any) -> Iterator[CausalLMEngine]:
    arguments = CausalLMArguments(model=str(tiny_checkpoint), max_num_seqs=3, max_num_batched_tokens=32)
    engine = CausalLMEngine.load(arguments, metrics)
    yield engine
    forward.gate.set()
    engine.close()


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
    engine: CausalLMEngine, forward: ObservedForward, new_answers: Any, texts: Any,
    error: BaseException, reason: str, code: str,
) -> None:  # fmt: skip
    for request in (generation(texts), scoring(texts)):
        forward.error = error
        failed = new_answers()
        engine.submit(request, failed)
        with pytest.raises(InferenceFailure) as caught:
            failed.wait()
        assert (caught.value.reason, caught.value.code) == (reason, code)
        forward.error = None
        answered = new_answers()
        engine.submit(request, answered)
        assert len(answered.wait()) == 1


def test_a_failing_step_fails_the_running_and_the_engine_goes_on(
    engine: CausalLMEngine, new_answers: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("step")

    with monkeypatch.context() as patch:
        patch.setattr(ForwardPass, "decode", broken)
        failed = new_answers()
        engine.submit(generation(texts), failed)
        with pytest.raises(InferenceFailure, match="failed on this batch"):
            failed.wait()
    answered = new_answers()
    engine.submit(generation(texts), answered)
    assert len(answered.wait()) == 1


def test_what_arrives_during_a_pass_is_computed_together_by_length(
    engine: CausalLMEngine, forward: ObservedForward, new_answers: Any, texts: Any
) -> None:
    forward.gate.clear()
    first = new_answers()
    engine.submit(scoring(texts), first)
    assert forward.entered.wait(timeout=30)
    contexts = ["The quick", "Question: Which planet is the largest? A. Mars", "fox", "The answer is 5."]
    waiting = [new_answers() for _ in contexts]
    for context, answers in zip(contexts, waiting, strict=True):
        engine.submit(scoring(texts, context), answers)
    forward.gate.set()
    for answers in waiting:
        answers.wait()
    later = forward.prefills[1:]
    assert sum(map(len, later)) == 4
    assert all(batch == sorted(batch) for batch in later)
    assert [max(batch) for batch in later] == sorted(max(batch) for batch in later)
    assert all(len(batch) * max(batch) <= 32 or len(batch) == 1 for batch in later)
    assert len(later) < 4


def test_no_more_sequences_run_than_allowed(
    engine: CausalLMEngine, forward: ObservedForward, metrics: Any, new_answers: Any, texts: Any
) -> None:
    asked = [new_answers() for _ in range(8)]
    for answers in asked:
        engine.submit(generation(texts, max_tokens=20), answers)
    for answers in asked:
        answers.wait()
    assert max(forward.decoded_rows) == 3
    metrics.wait_for(lambda values: values[seams.GENERATED_TOKENS] == 160 and values[seams.RUNNING_SEQUENCES] == 0)


def test_the_key_value_memory_bounds_what_runs_together_but_never_a_single_request(
    tiny_checkpoint: Path, forward: ObservedForward, metrics: Any, new_answers: Any, texts: Any
) -> None:
    loaded = load_causal_lm(CausalLMArguments(model=str(tiny_checkpoint)))
    # Room for two sequences of 2 prompt and 98 answer tokens, not for three.
    gib = 250 * loaded.kv_token_bytes / (1 << 30)
    engine = CausalLMEngine(loaded, CausalLMArguments(model=str(tiny_checkpoint), kv_cache_gib=gib), metrics)
    asked = [new_answers() for _ in range(5)]
    for answers in asked:
        engine.submit(generation(texts, max_tokens=98), answers)
    for answers in asked:
        answers.wait()
    assert max(forward.decoded_rows) == 2
    tight = CausalLMEngine(loaded, CausalLMArguments(model=str(tiny_checkpoint), kv_cache_gib=0.0), metrics)
    alone = new_answers()
    tight.submit(generation(texts), alone)
    assert len(alone.wait()) == 1
    for each in (engine, tight):
        each.close()


def test_a_caller_that_left_while_waiting_costs_nothing(
    engine: CausalLMEngine, forward: ObservedForward, metrics: Any, new_answers: Any, texts: Any
) -> None:
    gone = [new_answers(), new_answers()]
    for answers, request in zip(gone, (generation(texts), scoring(texts)), strict=True):
        answers.is_gone = True
        engine.submit(request, answers)
        assert answers.wait() == []
    assert forward.prefills == []
    metrics.wait_for(lambda values: values[seams.CANCELLED_REQUESTS] == 2)


def test_closing_answers_what_waits_and_what_comes_later(
    engine: CausalLMEngine, forward: ObservedForward, new_answers: Any, texts: Any
) -> None:
    forward.gate.clear()
    asked = [new_answers() for _ in range(3)]
    for answers, request in zip(
        asked, (generation(texts, max_tokens=200), scoring(texts), generation(texts)), strict=True
    ):
        engine.submit(request, answers)
    assert forward.entered.wait(timeout=30)
    closing = threading.Thread(target=engine.close)
    closing.start()
    forward.gate.set()
    closing.join(timeout=30)
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
    engine: CausalLMEngine, new_answers: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ForwardPass.prefill

    def not_a_number(forward: ForwardPass, prompts: Any) -> Any:
        logits, cache = real(forward, prompts)
        return logits * float("nan"), cache

    monkeypatch.setattr(ForwardPass, "prefill", not_a_number)
    for request in (generation(texts), scoring(texts)):
        answers = new_answers()
        engine.submit(request, answers)
        with pytest.raises(InferenceFailure) as caught:
            answers.wait()
        assert caught.value.reason == "NONFINITE_LOGITS"

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.inference.engines import cancellation, generation_request, seams
from services.inference.failures import InferenceFailure

PROMPTS = ["The quick", "Question: Which planet is the largest? A. Mars B. Jupiter", "é", "fox " * 20, "2 + 3"]
Ask = Callable[..., Any]


@pytest.fixture
def ask(tiny_engine: Any, new_answers: Any, texts: Any) -> Ask:
    """Submit a generation request; returns its responder."""

    def submit(
        prompt: str | None,
        *,
        flags: tuple[str, ...] = (),
        inputs: dict[str, Any] | None = None,
        answers: Any = None,
        **sampling: Any,
    ) -> Any:
        answers = answers or new_answers()
        tensors = {"sampling_parameters": texts(json.dumps(sampling)), **(inputs or {})}
        if prompt is not None:
            tensors["text_input"] = texts(prompt)
        for flag in ("exclude_input_in_output", "return_finish_reason", "return_num_output_tokens", *flags):
            tensors.setdefault(flag, np.array([True]))
        tiny_engine.submit(tensors, answers)
        return answers

    return submit


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)


def text_of(answers: Any) -> str:
    return b"".join(each["text_output"][0] for each in answers.wait()).decode()


def last(answers: Any, name: str) -> Any:
    return answers.wait()[-1][name].ravel()[0]


def greedy_reference(reference: tuple[Any, Any], prompt: str, max_tokens: int) -> str:
    model, tokenizer = reference
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=max_tokens,
        do_sample=False, pad_token_id=1,
    )  # fmt: skip
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_greedy_generation_is_that_of_transformers_in_any_batch(ask: Ask, reference: tuple[Any, Any]) -> None:
    asked = [ask(prompt, temperature=0, max_tokens=5 + 12 * index) for index, prompt in enumerate(PROMPTS * 3)]
    for index, (prompt, answers) in enumerate(zip(PROMPTS * 3, asked, strict=True)):
        assert text_of(answers) == greedy_reference(reference, prompt, 5 + 12 * index)


def test_a_seed_gives_the_same_answer_alone_and_in_company(ask: Ask) -> None:
    alone = text_of(ask("The quick", temperature=1.2, seed=5, max_tokens=30, top_p=0.95))
    company = [ask(prompt, temperature=2.0, max_tokens=10 + index) for index, prompt in enumerate(PROMPTS)]
    again = ask("The quick", temperature=1.2, seed=5, max_tokens=30, top_p=0.95)
    other = ask("The quick", temperature=1.2, seed=6, max_tokens=30, top_p=0.95)
    assert text_of(again) == alone != text_of(other)
    for answers in company:
        answers.wait()


@pytest.mark.parametrize("piece_seconds", [0.0, 1000.0])
def test_a_stream_says_the_same_as_one_answer(ask: Ask, monkeypatch: pytest.MonkeyPatch, piece_seconds: float) -> None:
    monkeypatch.setattr(generation_request, "PIECE_SECONDS", piece_seconds)
    whole = ask("The quick", temperature=0, max_tokens=40, flags=("return_num_input_tokens",))
    stream = ask("The quick", temperature=0, max_tokens=40, flags=("stream", "return_num_input_tokens"))
    pieces = stream.wait()
    assert text_of(stream) == text_of(whole)
    # Where tokens come faster than pieces may, the first is sent at once and the others together.
    assert len(pieces) == 2 if piece_seconds else len(pieces) > 5
    assert sum(int(each["num_output_tokens"][0]) for each in pieces) == 40 == last(whole, "num_output_tokens")
    assert [each["finish_reason"][0] for each in pieces] == [b"None"] * (len(pieces) - 1) + [b"length"]
    assert {int(each["num_input_tokens"][0]) for each in pieces} == {4}
    # What it cost until then, so that whoever leaves in between can be told.
    seconds = [float(each["engine_seconds"][0]) for each in pieces]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert len({int(each["num_cached_tokens"][0]) for each in pieces}) == 1
    assert not any("\ufffd" in each["text_output"][0].decode() for each in pieces[:-1]) or "\ufffd" in text_of(whole)


def test_a_stop_text_ends_the_answer(ask: Ask) -> None:
    whole = text_of(ask("The quick", temperature=0, max_tokens=40))
    stop = whole[10:13]
    for flags in ((), ("stream",)):
        answers = ask("The quick", temperature=0, max_tokens=40, stop=[stop], flags=flags)
        assert text_of(answers) == whole[: whole.index(stop)]
        assert last(answers, "finish_reason") == b"stop"
    kept = ask("The quick", temperature=0, max_tokens=40, stop=stop, include_stop_str_in_output=True)
    assert text_of(kept) == whole[: whole.index(stop) + 3]


def test_an_end_token_ends_the_answer_unless_ignored(ask: Ask, reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    ids = tokenizer("The quick", return_tensors="pt")["input_ids"]
    second = int(model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=1)[0, -1])
    answers = ask("The quick", temperature=0, max_tokens=9, stop_token_ids=[second, 10**6])
    assert last(answers, "finish_reason") == b"stop"
    assert last(answers, "num_output_tokens") == 2
    longer = ask("The quick", temperature=0, max_tokens=9, stop_token_ids=[second], min_tokens=5)
    assert last(longer, "num_output_tokens") >= 5
    assert last(ask("The quick", seed=1, max_tokens=200, ignore_eos=True), "num_output_tokens") == 200


def test_the_input_is_put_in_front_unless_excluded(ask: Ask) -> None:
    excluded = text_of(ask("The quick", temperature=0, max_tokens=3))
    included = ask("The quick", temperature=0, max_tokens=3, inputs={"exclude_input_in_output": np.array([False])})
    assert text_of(included) == "The quick" + excluded


def test_the_log_probability_is_the_sum_over_the_answer(ask: Ask, reference: tuple[Any, Any]) -> None:
    model, tokenizer = reference
    answers = ask("The quick", temperature=0, max_tokens=8, flags=("return_cumulative_logprob",))
    ids = tokenizer("The quick", return_tensors="pt")["input_ids"]
    whole = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=1)
    with torch.no_grad():
        log_probabilities = model(whole).logits[0].log_softmax(-1)
    count = ids.shape[1]
    expected = sum(log_probabilities[i - 1, whole[0, i]].item() for i in range(count, count + 8))
    assert last(answers, "cumulative_logprob") == pytest.approx(expected, abs=1e-3)


def test_generation_ends_where_the_context_ends(ask: Ask) -> None:
    answers = ask("fox " * 40, max_tokens=1000, seed=1, ignore_eos=True, flags=("return_num_input_tokens",))
    assert last(answers, "num_input_tokens") + last(answers, "num_output_tokens") == 256
    assert last(answers, "finish_reason") == b"length"


def test_a_prompt_that_leaves_no_room_is_refused_or_cut(ask: Ask, reference: tuple[Any, Any]) -> None:
    prompt = "".join(f"{number} " for number in range(300))
    with pytest.raises(InferenceFailure) as caught:
        ask(prompt, max_tokens=4).wait()
    assert caught.value.reason == "PROMPT_TOO_LONG"
    prompt_tokens = len(reference[1](prompt)["input_ids"])
    assert caught.value.metadata == {"prompt_tokens": str(prompt_tokens), "context_tokens": "256"}
    cut = ask(prompt, max_tokens=6, seed=1, ignore_eos=True, flags=("truncate_input", "return_num_input_tokens"))
    assert last(cut, "num_input_tokens") == 250
    assert last(cut, "num_truncated_tokens") == prompt_tokens - 250
    assert last(cut, "num_output_tokens") == 6


def test_a_conversation_is_rendered_by_the_chat_template(ask: Ask, texts: Any, reference: tuple[Any, Any]) -> None:
    messages = texts(json.dumps([{"role": "user", "content": "Hi"}]))
    answers = ask(None, temperature=0, max_tokens=6, inputs={"messages": messages})
    _, tokenizer = reference
    # The same text as a prompt: its own BOS must not be doubled.
    assert text_of(answers) == greedy_reference(reference, "<|user|>Hi</s><|assistant|>", 6)
    assert tokenizer.chat_template


def test_bad_requests_are_answered_with_their_reason(ask: Ask, texts: Any) -> None:
    messages = texts('[{"role": "user", "content": "Hi"}]')
    bad = {
        "PROMPT_EMPTY": ask(""),
        "PROMPT_AMBIGUOUS": ask("x", inputs={"messages": messages}),
        "INVALID_SAMPLING_PARAMETERS": ask("x", max_tokens=0),
        "INPUT_NOT_STREAMABLE": ask("x", flags=("stream",), inputs={"exclude_input_in_output": np.array([False])}),
        "TEXT_NOT_UTF8": ask(None, inputs={"text_input": np.array([b"\xff"], dtype=object)}),
        "MESSAGES_INVALID": ask(None, inputs={"messages": texts("?")}),
    }
    for reason, answers in bad.items():
        with pytest.raises(InferenceFailure) as caught:
            answers.wait()
        assert caught.value.reason == reason


def test_a_tokenizer_that_raises_is_the_requests_failure(
    ask: Ask, tiny_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OverflowError("no such text")

    monkeypatch.setattr(tiny_engine._reader._encoder, "encode", refuse)
    with pytest.raises(InferenceFailure) as caught:
        ask("x").wait()
    assert (caught.value.reason, caught.value.code) == ("ENGINE_FAILED", "INTERNAL")


def test_a_caller_that_gives_up_frees_its_place(
    ask: Ask, tiny_engine: Any, new_answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellation, "CANCEL_CHECK_SECONDS", 0.0)
    before = dict(tiny_engine.metrics.values)
    patient = ask("The quick", max_tokens=60, seed=1, ignore_eos=True)
    gone = [
        ask(
            "The quick",
            max_tokens=250,
            seed=1,
            ignore_eos=True,
            flags=("stream",),
            answers=new_answers(is_impatient=True),
        )
        for _ in range(3)
    ]
    assert last(patient, "num_output_tokens") == 60
    tiny_engine.metrics.wait_for(
        lambda values: (
            values[seams.CANCELLED_REQUESTS] == before.get(seams.CANCELLED_REQUESTS, 0) + 3
            and values[seams.RUNNING_SEQUENCES] == 0
        )
    )
    generated = tiny_engine.metrics.values[seams.GENERATED_TOKENS] - before.get(seams.GENERATED_TOKENS, 0)
    assert generated < 60 + 3 * 60
    assert all(len(answers.wait()) == 1 for answers in gone)


def test_engine_time_is_shared_out(ask: Ask, tiny_engine: Any) -> None:
    tiny_engine.metrics.wait_for(lambda values: values[seams.RUNNING_SEQUENCES] == 0)
    asked = [ask("The quick", max_tokens=20, seed=index) for index in range(6)]
    assert all(last(answers, "engine_seconds") > 0 for answers in asked)


def test_many_requests_from_many_threads_are_all_answered(ask: Ask) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        results.append(text_of(ask(PROMPTS[number % 5], temperature=0, max_tokens=1 + number % 7)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(results) == 40

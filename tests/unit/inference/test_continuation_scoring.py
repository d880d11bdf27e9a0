import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines.continuation_scoring import group_by_context, rolling_pieces
from services.inference.engines.prompts import EncodedScoring, PromptEncoder, RenderedPrompt
from services.inference.failures import InferenceFailure

Ask = Callable[..., Any]
QUESTION = "Question: Which planet is the largest? A. Mars B. Jupiter C. Venus D. Earth Answer: "


@pytest.fixture
def ask(tiny_engine: Any, new_answers: Any, texts: Any) -> Ask:
    """Submit a scoring request; returns its responder."""

    def submit(context: str, continuations: list[str], *, truncate: bool = False) -> Any:
        answers = new_answers()
        tensors = {"text_input": texts(context), "continuations": texts(*continuations)}
        if truncate:
            tensors["truncate_input"] = np.array([True])
        tiny_engine.submit(tensors, answers)
        return answers

    return submit


@pytest.fixture(scope="module")
def score_alone(tiny_checkpoint: Path) -> Callable[[str, str], tuple[float, bool, int]]:
    """Score one continuation by itself, as the definition says: one forward pass over everything, no cache."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    encoder = PromptEncoder(tokenizer, len(tokenizer))

    def score(context: str, continuation: str) -> tuple[float, bool, int]:
        encoded = encoder.encode_scoring(RenderedPrompt(context, is_rendered=False), [continuation])
        tokens = list(encoded.continuations[0])
        inputs = [*encoded.context, *tokens][-257:][:-1]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([inputs])).logits[0].float().log_softmax(-1)[-len(tokens) :]
        chosen = log_probabilities.gather(1, torch.tensor(tokens).unsqueeze(1)).sum().item()
        return chosen, log_probabilities.argmax(-1).tolist() == tokens, len(tokens)

    return score


def scores(answers: Any) -> list[tuple[float, bool, int]]:
    response = answers.wait()[0]
    return [
        (float(likelihood), bool(greedy), int(count))
        for likelihood, greedy, count in zip(
            response["continuation_log_likelihoods"],
            response["continuation_is_greedy"],
            response["continuation_num_tokens"],
            strict=True,
        )
    ]


def assert_equal(got: list[tuple[float, bool, int]], expected: list[tuple[float, bool, int]]) -> None:
    assert [each[1:] for each in got] == [each[1:] for each in expected]
    assert [each[0] for each in got] == pytest.approx([each[0] for each in expected], abs=1e-4, rel=0)


@pytest.mark.parametrize(
    ("context", "continuations"),
    [
        (QUESTION, ["A", "B", "C", "D"]),
        (QUESTION, ["Mars", "Jupiter is the largest planet", "x", "the lazy dog jumps over the quick brown fox"]),
        ("The quick", [" brown", " brown", " fox"]),
        ("", ["The quick brown fox", "a"]),
        ("fox \n ", ["jumps"]),
    ],
)
def test_scores_are_those_of_the_definition(ask: Ask, score_alone: Any, context: str, continuations: list[str]) -> None:
    answers = ask(context, continuations)
    assert_equal(scores(answers), [score_alone(context, each) for each in continuations])


def test_scores_do_not_depend_on_the_batch(ask: Ask, score_alone: Any) -> None:
    generator = random.Random(3)
    words = QUESTION.split()
    requests = [
        (
            " ".join(generator.choices(words, k=generator.randint(1, 40))),
            [" ".join(generator.choices(words, k=generator.randint(1, 8))) for _ in range(generator.randint(1, 5))],
        )
        for _ in range(40)
    ]
    asked = [ask(*each) for each in requests]
    for (context, continuations), answers in zip(requests, asked, strict=True):
        assert_equal(scores(answers), [score_alone(context, each) for each in continuations])


def test_exactly_the_greedy_continuation_is_marked(ask: Ask, score_alone: Any) -> None:
    letters = [chr(code) for code in range(33, 127)]
    contexts = [f"The answer is {number}#" for number in range(12)]
    asked = [ask(context, letters) for context in contexts]
    marked = 0
    for context, answers in zip(contexts, asked, strict=True):
        for letter, (_, is_greedy, _) in zip(letters, scores(answers), strict=True):
            marked += is_greedy
            assert not is_greedy or score_alone(context, letter)[1]
    assert 0 < marked <= len(contexts)


def test_token_counts_and_cost_are_reported(ask: Ask) -> None:
    response = ask("The quick", ["\n", "a b"]).wait()[0]
    # BOS, "The", " quick"; every letter that the corpus never merged is a token of its own.
    assert response["num_input_tokens"].tolist() == [4]
    assert response["continuation_num_tokens"].tolist() == [1, 2]
    assert response["num_truncated_tokens"].tolist() == [0]
    assert response["engine_seconds"][0] > 0


def test_a_context_that_does_not_fit_is_refused_or_cut_from_the_left(ask: Ask, score_alone: Any) -> None:
    context = "".join(f"{number} " for number in range(200))
    continuations = ["A", "Jupiter is the largest", "the quick brown fox jumps over the lazy dog", "B"]
    with pytest.raises(InferenceFailure) as caught:
        ask(context, continuations).wait()
    assert caught.value.reason == "PROMPT_TOO_LONG"
    answers = ask(context, continuations, truncate=True)
    assert_equal(scores(answers), [score_alone(context, each) for each in continuations])
    assert answers.wait()[0]["num_truncated_tokens"][0] > 0


def test_a_continuation_longer_than_the_window_is_refused(ask: Ask) -> None:
    with pytest.raises(InferenceFailure) as caught:
        ask("x", ["1 " * 600], truncate=True).wait()
    assert caught.value.reason == "CONTINUATION_TOO_LONG"


def test_a_whole_text_longer_than_the_window_is_scored_in_the_harnesss_rolling_windows(
    ask: Ask, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "".join(f"{number} " for number in range(400))
    with pytest.raises(InferenceFailure) as caught:
        ask("", [text]).wait()
    assert caught.value.reason == "CONTINUATION_TOO_LONG"
    short = "the quick brown fox"
    [(found, is_greedy, count), (alone, _, _)] = scores(asked := ask("", [text, short], truncate=True))
    assert scores(ask("", [short]))[0][0] == pytest.approx(alone, abs=1e-4)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokens = tokenizer.encode(text, add_special_tokens=False)
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    expected = 0.0
    # The harness's definition: each window reads at most 256 tokens and scores those that no window has scored.
    done = 0
    while done < len(tokens):
        end = min(len(tokens), done + 256)
        read = [prefix, *tokens][max(0, end - 256) : end]
        with torch.no_grad():
            chances = model(torch.tensor([read])).logits[0].float().log_softmax(-1)
        wanted = tokens[done:end]
        expected += chances[-len(wanted) :].gather(1, torch.tensor(wanted).unsqueeze(1)).sum().item()
        done = end
    assert len(tokens) > 2 * 256
    assert (count, is_greedy) == (len(tokens), False)
    assert found == pytest.approx(expected, rel=1e-5)
    assert asked.wait()[0]["num_truncated_tokens"].tolist() == [1 + len(tokens) - 256 - 1]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 17])
def test_pieces_of_a_text_score_each_token_once_and_fit_the_window(length: int) -> None:
    tokens = list(range(length + 1))
    pieces = list(rolling_pieces(tokens, 1, 8))
    assert [token for _, piece in pieces for token in piece] == tokens[1:]
    for context, piece in pieces:
        assert context
        assert len(context) + len(piece) - 1 <= 8
        assert [*context, *piece] == tokens[context[0] : piece[-1] + 1]
    # All but the first see as much as the window holds.
    assert all(len(context) + len(piece) - 1 == 8 for context, piece in pieces[1:])


# "T" and "h" are two tokens, "The" is one: the tokenizer merges the continuation into its context.
@pytest.mark.parametrize(("context", "continuation"), [("x", ""), ("Th", "e")])
def test_continuations_without_tokens_are_refused_by_index(ask: Ask, context: str, continuation: str) -> None:
    with pytest.raises(InferenceFailure) as caught:
        ask(context, ["a", continuation]).wait()
    assert caught.value.reason == "CONTINUATION_EMPTY"


@settings(deadline=None)
@given(
    context=st.integers(1, 30),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    window=st.integers(12, 24),
)
def test_groups_keep_exactly_what_the_window_holds(context: int, lengths: list[int], window: int) -> None:
    encoded = EncodedScoring(tuple(range(context)), tuple((99,) * length for length in lengths))
    groups = group_by_context(encoded, window, may_truncate=True)
    seen = {index: (list(group.context), tokens) for group in groups for index, tokens in group.members}
    for index, length in enumerate(lengths):
        expected = [*range(context), *(99,) * length][-(window + 1) :][:-length]
        assert seen[index] == (expected, (99,) * length)
    fits = all(context + length <= window + 1 for length in lengths)
    assert (len(groups) == 1 and groups[0].context == encoded.context) or not fits
    if not fits:
        with pytest.raises(InferenceFailure, match="allow truncation"):
            group_by_context(encoded, window, may_truncate=False)

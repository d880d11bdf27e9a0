"""Which texts a classifier computes next, without a classifier."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.engines.classifier_jobs import ClassifierJob, Pass, next_pass
from services.inference.engines.text_windows import WindowReader
from tests.unit.inference.test_text_windows import LetterTokenizer

LONGEST = 64
PASS_TOKENS = 128
PASS_SECONDS = 0.01


@pytest.fixture
def reader() -> WindowReader:
    return WindowReader(LetterTokenizer(), LONGEST)


def job(*texts: str, arrived: float = 0.0, max_windows: int = 64) -> ClassifierJob:
    responder: Any = None
    return ClassifierJob(texts, max_windows, responder, arrived)


def compute(chosen: Pass) -> None:
    """Answer each window with its first letter."""
    for each, window in chosen.windows:
        each.take(window, np.array([window.ids[1]], dtype=np.float32))


def served(jobs: list[ClassifierJob], reader: WindowReader, now: float) -> list[ClassifierJob]:
    """Compute pass after pass and return the jobs in the order in which they end."""
    order: list[ClassifierJob] = []
    left = list(jobs)
    while left:
        compute(next_pass(left, reader, now, PASS_TOKENS, LONGEST))
        now += PASS_SECONDS
        order += [each for each in left if each.is_complete]
        left = [each for each in left if not each.is_complete]
    return order


def test_a_short_text_overtakes_a_long_one_between_two_of_its_windows(reader: WindowReader) -> None:
    long, short = job("x" * 2000), job("y" * 10, arrived=0.05)
    compute(next_pass([long], reader, 0.01, PASS_TOKENS, LONGEST))
    assert served([long, short], reader, 0.06) == [short, long]


def test_of_two_that_came_together_the_shorter_is_first(reader: WindowReader) -> None:
    long, short = job("x" * 600), job("y" * 300)
    assert served([long, short], reader, 0.01) == [short, long]


def test_a_long_text_does_not_starve_behind_short_ones(reader: WindowReader) -> None:
    long = job("x" * 1000)
    now, passes = 0.0, 0
    # Two short texts arrive a pass: as much as a pass computes.
    short: list[ClassifierJob] = []
    while not long.is_complete:
        short += [job("y" * 60, arrived=now), job("z" * 60, arrived=now)]
        compute(next_pass([long, *short], reader, now, PASS_TOKENS, LONGEST))
        short = [each for each in short if not each.is_complete]
        now, passes = now + PASS_SECONDS, passes + 1
        assert passes < 200


def test_texts_of_one_length_go_together_whoever_asks(reader: WindowReader) -> None:
    jobs = [job("a" * 14), job("b" * 12), job("c" * 13)]
    chosen = next_pass(jobs, reader, 1.0, PASS_TOKENS, LONGEST)
    assert {id(each) for each, _ in chosen.windows} == set(map(id, jobs))
    assert chosen.padded_tokens == 16


@given(
    st.lists(
        st.lists(st.text(alphabet="abc", min_size=1, max_size=400), min_size=1, max_size=5), min_size=1, max_size=6
    ),
    st.sampled_from([1, 3, 64]),
)
def test_whatever_is_asked_is_answered_whole_and_in_order(requests: list[list[str]], max_windows: int) -> None:
    reader = WindowReader(LetterTokenizer(), LONGEST)
    jobs = [job(*texts, arrived=0.001 * number, max_windows=max_windows) for number, texts in enumerate(requests)]
    assert len(served(jobs, reader, 1.0)) == len(jobs)
    for each, texts in zip(jobs, requests, strict=True):
        answer = each.tensors()
        assert len(answer["num_windows"]) == len(texts)
        assert answer["num_windows"].max() <= max_windows
        firsts = np.cumsum(answer["num_windows"]) - answer["num_windows"]
        assert [chr(int(answer["probabilities"][row, 0])) for row in firsts] == [text[0] for text in texts]
        assert answer["truncated"].tolist() == [
            count == max_windows and len(text) > LONGEST - 2 + (count - 1) * 47
            for text, count in zip(texts, answer["num_windows"], strict=True)
        ]


@given(st.lists(st.integers(1, LONGEST - 2), min_size=1, max_size=20))
def test_a_pass_stays_within_its_bound(lengths: list[int]) -> None:
    reader = WindowReader(LetterTokenizer(), LONGEST)
    jobs = [job("a" * length) for length in lengths]
    chosen = next_pass(jobs, reader, 1.0, PASS_TOKENS, LONGEST)
    assert len(chosen.windows) * chosen.padded_tokens <= PASS_TOKENS or len(chosen.windows) == 1
    ids, mask = chosen.ids(9, pads_left=False)
    assert ids.shape == mask.shape == (len(chosen.windows), chosen.padded_tokens)
    assert [row.sum() for row in mask] == [len(window.ids) for _, window in chosen.windows]
    left_ids, left_mask = chosen.ids(9, pads_left=True)
    assert (left_mask[:, -1] == 1).all()
    assert sorted(ids[0]) == sorted(left_ids[0])


class CountingTokenizer(LetterTokenizer):
    """Counts the texts that it is given."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, list[list[int]] | list[int]]:
        self.count += 1 if isinstance(texts, str) else len(texts)
        return super().__call__(texts)


@pytest.mark.parametrize("length", [50, 400])
def test_texts_that_do_not_fit_into_the_pass_are_not_read_for_it(length: int) -> None:
    tokenizer = CountingTokenizer()
    reader = WindowReader(tokenizer, LONGEST)
    jobs = [job("a" * 40), *(job("b" * length, arrived=0.5) for _ in range(100))]
    tokenizer.count = 0
    chosen = next_pass(jobs, reader, 1.0, 80, LONGEST)
    assert [each for each, _ in chosen.windows] == jobs[:1]
    assert tokenizer.count <= 2
    assert len(served(jobs, reader, 1.0)) == len(jobs)


def test_short_texts_behind_one_that_does_not_fit_still_go_along(reader: WindowReader) -> None:
    jobs = [job("a" * 40), job("b" * 400, arrived=0.1), *(job("c" * 14, arrived=0.9) for _ in range(2))]
    next_pass(jobs, reader, 1.0, 80, LONGEST)
    assert [each.is_read for each in jobs] == [True, False, True, True]


class BareTokenizer(LetterTokenizer):
    """Sets no special tokens around a text."""

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, list[list[int]] | list[int]]:
        if isinstance(texts, str):
            return {"special_tokens_mask": [0] * len(texts)}
        return {"input_ids": [[*map(ord, text)] for text in texts]}


@pytest.mark.parametrize("pads_left", [False, True])
def test_a_window_of_no_tokens_is_all_padding(pads_left: bool) -> None:
    jobs = [job(""), job("ab")]
    chosen = next_pass(jobs, WindowReader(BareTokenizer(), LONGEST), 1.0, PASS_TOKENS, LONGEST)
    ids, mask = chosen.ids(9, pads_left=pads_left)
    assert mask.sum(axis=1).tolist() == [0, 2]
    assert (ids[0] == 9).all()

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.engines.answer_text import AnswerText

letters = st.text(alphabet="abc é🙂", max_size=30)


@st.composite
def tokenised(draw: st.DrawFn) -> list[bytes]:
    """A text cut into byte pieces anywhere, also inside a character."""
    raw = draw(letters).encode()
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=len(raw))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True) if start < end]


def answer_of(pieces: Sequence[bytes], stop: Sequence[str], *, include_stop: bool = False) -> AnswerText:
    def decode(ids: Sequence[int]) -> str:
        return b"".join(pieces[index] for index in ids).decode("utf-8", errors="replace")

    return AnswerText(decode, stop, include_stop=include_stop, is_watched=True)


def stream(pieces: Sequence[bytes], stop: Sequence[str], *, include_stop: bool = False) -> tuple[list[str], str]:
    """Return the emitted pieces and the final text."""
    answer = answer_of(pieces, stop, include_stop=include_stop)
    emitted: list[str] = []
    for index in range(len(pieces)):
        is_stopped = answer.push(index)
        if is_stopped:
            break
        emitted.append(answer.release(is_final=False))
    answer.finish()
    emitted.append(answer.release(is_final=True))
    return emitted, answer.text


@given(tokenised())
def test_pieces_make_up_the_whole_text(pieces: list[bytes]) -> None:
    emitted, final = stream(pieces, ())
    assert "".join(emitted) == final == b"".join(pieces).decode()
    assert not any("\ufffd" in piece for piece in emitted)


@given(tokenised(), st.lists(st.text(alphabet="abc é🙂", min_size=1, max_size=4), max_size=3), st.booleans())
def test_the_text_ends_at_the_first_stop_text(pieces: list[bytes], stop: list[str], include_stop: bool) -> None:
    emitted, final = stream(pieces, stop, include_stop=include_stop)
    expected = whole = b"".join(pieces).decode()
    for count in range(1, len(pieces) + 1):
        seen = b"".join(pieces[:count]).decode("utf-8", errors="ignore")
        hits = [(seen.find(each), each) for each in stop if each in seen]
        if hits:
            position, first = min(hits, key=lambda hit: hit[0])
            expected = whole[: position + (len(first) if include_stop else 0)]
            break
    assert final == "".join(emitted) == expected


@given(tokenised(), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_nothing_of_a_stop_text_is_ever_emitted(pieces: list[bytes], stop: list[str]) -> None:
    emitted, _ = stream(pieces, stop)
    assert not any(each in "".join(emitted) for each in stop)


def test_text_that_may_become_a_stop_text_is_held_back_only_as_long_as_it_may() -> None:
    pieces = [b"so E", b"N", b"x END"]
    answer = answer_of(pieces, ["END"])
    assert not answer.push(0)
    assert answer.release(is_final=False) == "so "
    assert not answer.push(1)
    assert answer.release(is_final=False) == ""
    assert answer.push(2)
    answer.finish()
    assert answer.release(is_final=True) == "ENx "


def test_a_stop_text_before_the_minimum_does_not_count() -> None:
    answer = answer_of([b"END", b"a", b"END"], ["END"])
    assert not answer.push(0, may_stop=False)
    assert not answer.push(1)
    assert answer.push(2)
    assert answer.text == "ENDa"


def test_half_a_character_at_the_end_becomes_a_replacement_character() -> None:
    emitted, final = stream([b"a", "é".encode()[:1]], ())
    assert emitted == ["a", "", "\ufffd"]
    assert final == "a\ufffd"


def test_text_that_nobody_watches_is_decoded_once() -> None:
    calls = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal calls
        calls += 1
        return "x" * len(ids)

    answer = AnswerText(decode, (), include_stop=False, is_watched=False)
    assert not any(answer.push(index) for index in range(50))
    answer.finish()
    assert answer.release(is_final=True) == "x" * 50
    assert calls == 1


@pytest.mark.parametrize("order", [["ab", "abc"], ["abc", "ab"]])
def test_the_shorter_of_two_stop_texts_that_begin_alike_wins(order: list[str]) -> None:
    _, final = stream([b"x", b"ab", b"c"], order)
    assert final == "x"

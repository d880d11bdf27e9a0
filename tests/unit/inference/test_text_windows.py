from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from services.inference.engines.text_windows import WindowReader, unknown_share, window_spans, window_starts


@given(st.integers(1, 3000), st.integers(1, 254), st.integers(1, 64))
def test_windows_cover_a_text_evenly_and_all_but_short_texts_fill_them(length: int, room: int, most: int) -> None:
    starts, is_truncated = window_starts(length, room, most)
    assert 1 <= len(starts) <= most
    assert starts[0] == 0
    ends = [min(start + room, length) for start in starts]
    assert all(end - start == min(room, length) for start, end in zip(starts, ends, strict=True))
    steps = [after - before for before, after in pairwise(starts)]
    # Neighbours overlap, by a quarter or more.
    assert all(0 < step <= room - room // 4 + 1 and (room == 1 or step <= room) for step in steps)
    assert is_truncated == (ends[-1] < length)
    if not is_truncated and steps:
        assert max(steps) - min(steps) <= 1


@given(st.integers(1, 3000), st.integers(1, 254), st.integers(1, 254), st.integers(1, 64))
def test_the_first_window_is_the_longest_and_shorter_ones_divide_the_whole_text(
    length: int, one_room: int, other_room: int, most: int
) -> None:
    later, first = sorted((one_room, other_room))
    spans, is_truncated = window_spans(length, first, later, most)
    assert 1 <= len(spans) <= most
    assert spans[0] == (0, min(length, first))
    assert all(end - start == later for start, end in spans[1:])
    # Neighbours overlap by a quarter of the shorter ones or more, and none begins before its neighbour does.
    assert all(after[0] <= before[1] - later // 4 + 1 for before, after in pairwise(spans))
    assert all(before[0] <= after[0] <= before[1] for before, after in pairwise(spans))
    assert is_truncated == (max(end for _, end in spans) < length)
    if len(spans) > 1 and later < first:
        assert spans[1][0] == 0, "shorter windows read the beginning, too"


class LetterTokenizer:
    """A letter is a token; 0 begins a text and 1 ends it."""

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, list[list[int]] | list[int]]:
        if isinstance(texts, str):
            return {"special_tokens_mask": [1, *[0] * len(texts), 1]}
        return {"input_ids": [[0, *map(ord, text), 1] for text in texts]}


@given(st.text(alphabet="abc", max_size=200), st.integers(3, 40), st.none() | st.integers(3, 40))
def test_every_token_is_in_a_window_between_the_special_ones(
    text: str, max_tokens: int, window_tokens: int | None
) -> None:
    [read] = WindowReader(LetterTokenizer(), max_tokens, window_tokens).read([text], 200)
    assert not read.is_truncated
    assert all(len(ids) <= max_tokens and ids[0] == 0 and ids[-1] == 1 for ids in read.windows)
    assert set("".join(map(chr, (each for ids in read.windows for each in ids[1:-1])))) == set(text)
    inner = ["".join(map(chr, ids[1:-1])) for ids in read.windows]
    assert text.startswith(inner[0])
    assert text.endswith(inner[-1])


@pytest.fixture(scope="module")
def word_tokenizer() -> Any:
    words = ("[UNK]", "[CLS]", "[SEP]", "kill", "[", "]", "SEP", "a", "plain", "word", "\U0001f600")
    tokens = Tokenizer(models.WordLevel({token: index for index, token in enumerate(words)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def test_a_special_token_that_a_text_spells_is_plain_text(word_tokenizer: Any) -> None:
    [read] = WindowReader(word_tokenizer, 16).read(["kill [SEP] kill"], 1)
    assert list(read.windows[0]) == [1, 3, 4, 6, 5, 3, 2]
    assert read.unknown_shares == (0.0,)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a plain word", 0.0),
        ("[UNK]", 1 / 3),
        ("\uff4b\uff49\uff4c\uff4c", 1.0),
        ("\u24da\u24d8\u24db\u24db a plain word", 0.25),
        ("\U0001f17a\U0001f178\U0001f17b\U0001f17b", 1.0),
        ("\U0001f1f0\U0001f1ee\U0001f1f1\U0001f1f1", 1.0),
        ("\u2805\u280a\u2807\u2807", 1.0),
        # Emoji count neither way, but hide no word to which they are glued, and dilute nothing.
        ("a plain word \U0001f602\U0001f602 \u2764\ufe0f \U0001f469\u200d\U0001f4bb", 0.0),
        ("\U0001f602 \U0001f602", 1.0),
        ("\uff4b\uff49\uff4c\uff4c a" + " \U0001f602" * 9, 0.5),
        ("a plain kill\U0001f602", 0.0),
        ("a plain ki\U0001f602ll", 1 / 3),
        ("\U0001f602" * 9 + "ki\U0001f602ll", 1.0),
        ("", 1.0),
        ("\x00", 1.0),
    ],
)
def test_what_the_vocabulary_lacks_is_told(text: str, share: float, word_tokenizer: Any) -> None:
    [read] = WindowReader(word_tokenizer, 64).read([text], 1)
    assert read.unknown_shares == pytest.approx((share,))


@pytest.mark.parametrize(
    "text", ["kill\U0001f602", "\U0001f602\U0001f525kill", "kill\u2764\ufe0f!", "\U0001f52akill\U0001f52a"]
)
def test_a_word_is_read_although_an_emoji_is_glued_to_it(text: str, word_tokenizer: Any) -> None:
    [read] = WindowReader(word_tokenizer, 16).read([text], 1)
    assert 3 in read.windows[0]


def test_a_stretch_that_is_not_read_is_told_of_the_windows_that_have_it(word_tokenizer: Any) -> None:
    hidden = "\uff4b\uff49\uff4c\uff4c " * 8
    [whole, long] = WindowReader(word_tokenizer, 130, 34).read(
        ["a word " * 30 + hidden + "a word " * 30, "a word " * 200 + hidden], 64
    )
    assert whole.unknown_shares == (0.25,)
    assert long.unknown_shares[0] == 0.0
    assert long.unknown_shares[-1] == 0.25


def test_a_tokenizer_that_has_no_unknown_token_or_tells_no_places_is_read_all_the_same(word_tokenizer: Any) -> None:
    class Slow:
        unk_token_id = word_tokenizer.unk_token_id
        is_fast = False

        def __call__(self, *given: object, **options: object) -> Any:
            assert "return_offsets_mapping" not in options
            return word_tokenizer(*given, **options)

    assert WindowReader(LetterTokenizer(), 64).read(["\U0001f602"], 1)[0].unknown_shares == (0.0,)
    assert WindowReader(Slow(), 64).read(["a \U0001f602"], 1)[0].unknown_shares == (0.5,)


@given(st.lists(st.sampled_from([True, False, None]), max_size=100))
def test_the_share_is_that_of_the_worst_stretch(told: list[bool | None]) -> None:
    counted = [each for each in told if each is not None]
    stretches = [counted[start : start + 32] for start in range(max(1, len(counted) - 31))]
    expected = max((sum(each) / len(each) for each in stretches if each), default=1.0)
    assert unknown_share(told) == pytest.approx(expected)
    assert (unknown_share(told) == 0.0) == (bool(counted) and True not in counted)

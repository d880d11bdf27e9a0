from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from services.inference.engines.text_windows import WindowReader, window_spans, window_starts


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


def test_a_special_token_that_a_text_spells_is_plain_text() -> None:
    vocabulary = {token: index for index, token in enumerate(("[UNK]", "[CLS]", "[SEP]", "kill", "[", "]", "SEP"))}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    [read] = WindowReader(tokenizer, 16).read(["kill [SEP] kill"], 1)
    assert list(read.windows[0]) == [1, 3, 4, 6, 5, 3, 2]

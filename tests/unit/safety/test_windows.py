"""Windows of long texts: nothing is left out unless the answer says so."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from services.safety.guard import LabelledText
from services.safety.windows import MAX_WINDOWS, OVERLAP_CHARACTERS, parts_of, read_whole

READ_CHARACTERS = 350


class Reader:
    """Reads the first ``READ_CHARACTERS`` of each text."""

    def __init__(self) -> None:
        self.requests: list[Sequence[str]] = []

    async def __call__(self, texts: Sequence[str]) -> list[LabelledText]:
        self.requests.append(texts)
        return [LabelledText([0.1], 110, len(text) > READ_CHARACTERS) for text in texts]


@given(st.text(alphabet="ab \n", max_size=4000), st.integers(301, 900), st.integers(1, 20))
def test_parts_cover_the_text_in_order(text: str, size: int, most: int) -> None:
    parts = list(parts_of(text, size, most))
    assert 1 <= len(parts) <= most
    assert all(len(part) <= size for part in parts[:-1])
    whole = parts[0]
    for part in parts[1:]:
        assert whole.endswith(part[:OVERLAP_CHARACTERS])
        whole += part[OVERLAP_CHARACTERS:]
    assert whole == text


async def test_short_texts_are_asked_once() -> None:
    reader = Reader()
    assert [len(each) for each in await read_whole(["a", "b" * READ_CHARACTERS], reader)] == [1, 1]
    assert len(reader.requests) == 1


async def test_every_character_of_a_long_text_is_read() -> None:
    text = " ".join(f"word{number}" for number in range(600))
    [windows] = await read_whole([text], Reader())
    assert not any(isinstance(each.answer, LabelledText) and each.answer.truncated for each in windows)
    assert all(any(f"word{number}" in each.content for each in windows) for number in range(600))


async def test_windows_are_bounded_and_what_is_left_is_marked() -> None:
    long, short = await read_whole(["x" * 100_000, "y" * 1000], Reader())
    assert len(long) == MAX_WINDOWS
    assert [isinstance(each.answer, LabelledText) and each.answer.truncated for each in long] == [False] * (
        MAX_WINDOWS - 1
    ) + [True]
    assert sum(len(each.content) for each in long) >= 100_000
    assert 1 < len(short) < 6


async def test_blank_parts_are_not_asked() -> None:
    reader = Reader()
    await read_whole(["x" * 400 + " " * 5000 + "x" * 400], reader)
    assert all(text.strip() for texts in reader.requests for text in texts)

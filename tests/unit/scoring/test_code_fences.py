"""Which part of a text is the program."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scoring.code_fences import fenced_code

ANSWER = "Here:\n```python\na = 1\n```\nor\n```\nb = 2\n```\nand\n```bash\nls\n```\n"


def test_the_first_or_last_fence_of_python_or_of_nothing_is_taken() -> None:
    assert fenced_code(ANSWER, "first_fence") == "a = 1"
    assert fenced_code(ANSWER, "last_fence") == "b = 2"
    assert fenced_code(ANSWER, "nothing") == ANSWER


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("    return x\n", "    return x\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```py\nx = '''\n```\n", "x = '''"),
        ("~~~~Python3\nx = 1\n~~~\n~~~~\n", "x = 1\n~~~"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),
        ("```\r\nx = 1\r\n```\r\n", "x = 1\r"),
        ("say ```x``` inline", "say ```x``` inline"),
        ("```python title\nx\n```", "x"),
        ("``````", "``````"[:0]),
    ],
)
def test_fences_as_models_write_them(text: str, code: str) -> None:
    assert fenced_code(text, "first_fence") == code


@given(st.text(alphabet="`~py \n\rx", max_size=200))
def test_any_text_gives_a_part_of_itself(text: str) -> None:
    for take in ("first_fence", "last_fence", "nothing"):
        assert fenced_code(text, take) in text


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        "```" + "a" * 1_000_000 + "`",
        "```" + " " * 1_000_000 + "`",
        "`" * 1_000_000 + "a`",
        "~" * 1_000_000 + "`",
        "```a`\n" * 160_000,
    ],
    ids=["language", "blanks", "backticks", "tildes", "lines"],
)
def test_a_million_characters_that_open_no_fence_take_no_time(text: str) -> None:
    assert fenced_code(text, "last_fence") == text

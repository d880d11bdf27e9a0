"""The parsers on wild input: no other failure than saying so, and no safe verdict that is not written there."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.safety.errors import UnusableAnswerError
from services.safety.formats.guard_format import Level, Statement
from services.safety.formats.registry import FAMILIES
from services.safety.judgement import Aspect
from tests.fakes.language_model import SAFE_ANSWERS, UNSAFE_ANSWERS, build_format, turn_of

ALL = [*product(FAMILIES, Aspect)]
FORMATS = {kind: build_format(kind) for kind in FAMILIES}
PIECES = sorted(
    {
        *(line for answers in (SAFE_ANSWERS, UNSAFE_ANSWERS) for said in answers.values() for line in said.values()),
        "safe", "unsafe", "S1", "S1,S2", "\n", "\n\n", " ", "Yes", "No", "yes", "no", "N/A", "NaN", "null", "{", "}",
        '"', "0", "1", "Harmful request: ", "Response refusal: ", "Harmful response: ", "Safety: ", "Safe", "Unsafe",
        "Controversial", "Categories: ", "None", "Refusal: ", "<score>", "</score>", "<think>", "</think>",
        '{"violation": 0}', '"violation"', ": ", "[", "]", "<|channel|>final<|message|>", '{"User Safety": "safe"}',
        '"Response Safety"', "```json\n", "\n```", "\x00", "\ud800", "\u2028",
    }
)  # fmt: skip
WILD = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


def read(kind: str, text: str, aspect: Aspect) -> Statement | None:
    guard_format = FORMATS[kind]
    question = guard_format.questions(turn_of(aspect))[0]
    try:
        return guard_format.read(text, question, aspect)
    except UnusableAnswerError:
        return None


def says_safe(kind: str, text: str, aspect: Aspect) -> bool:
    """Whether a text is a safe verdict, decided in another way than by the parsers: it is one of the few spellings."""
    words = " ".join(text.split())
    if kind.startswith("llama-guard"):
        return words == "safe"
    if kind == "shieldgemma":
        return words.strip(". ") == "No"
    if kind == "wildguard":
        lines = [line.strip() for line in text.strip().split("\n")]
        judged = 0 if aspect is Aspect.PROMPT else 2
        return len(lines) == 3 and lines[judged].split()[-1] == "no"
    if kind == "granite-guardian":
        return text.rsplit("<score>", 1)[-1].split("</score>")[0].strip() == "no"
    if kind == "qwen3guard":
        return words.startswith("Safety: Safe") and "Categories: None" in words
    if kind == "nemoguard":
        key = '"User Safety"' if aspect is Aspect.PROMPT else '"Response Safety"'
        return key in words and '"safe"' in words
    return '"violation"' in words and "0" in words


@pytest.mark.parametrize(("kind", "aspect"), ALL, ids=str)
@settings(deadline=None)
@given(text=WILD)
def test_wild_answers_are_refused_or_read_and_never_falsely_safe(kind: str, aspect: Aspect, text: str) -> None:
    statement = read(kind, text, aspect)
    if statement is not None:
        assert text.startswith(statement.before)
        assert len(statement.words) >= 2
    if statement is not None and statement.level is Level.SAFE:
        assert says_safe(kind, text, aspect), text
        assert not statement.codes


@pytest.mark.parametrize(("kind", "aspect"), ALL, ids=str)
def test_a_safe_answer_with_anything_behind_it_is_not_safe(kind: str, aspect: Aspect) -> None:
    said = SAFE_ANSWERS[kind][aspect]
    for more in (" but", "\nS1", " unsafe", "\nunsafe", "x", " {", "\n<score>yes</score>", "?", ", because", " lo sé"):
        statement = read(kind, said + more, aspect)
        assert statement is None or statement.level is not Level.SAFE, said + more


@pytest.mark.parametrize(("kind", "aspect"), ALL, ids=str)
def test_every_beginning_of_a_safe_answer_is_no_verdict(kind: str, aspect: Aspect) -> None:
    said = SAFE_ANSWERS[kind][aspect]
    for length in range(len(said)):
        assert read(kind, said[:length], aspect) is None, said[:length]


@pytest.mark.parametrize(("kind", "aspect"), ALL, ids=str)
def test_the_verdict_word_stands_behind_what_was_before(kind: str, aspect: Aspect) -> None:
    for answers, level in ((SAFE_ANSWERS, Level.SAFE), (UNSAFE_ANSWERS, Level.UNSAFE)):
        said = answers[kind][aspect]
        statement = read(kind, said, aspect)
        assert statement is not None
        assert statement.level is level
        assert said.startswith(statement.before + dict(statement.words)[level])


@pytest.mark.parametrize(
    "text",
    [
        '{"User Safety": "safe", "User Safety": "unsafe"}',
        '{"User Safety": "Safe"}',
        '{"User Safety": NaN}',
        '{"User Safety": ["safe"]}',
        '{"User Safety": "safe", "Note": "x"}',
        '{"User Safety": "safe", "Response Safety": "dunno"}',
        '{"User Safety": "safe", "Safety Categories": ["Violence"]}',
        '["safe"]',
        '{"User Safety": "safe"} {"User Safety": "safe"}',
        "[" * 100_000,
    ],
)
def test_json_is_not_guessed(text: str) -> None:
    assert read("nemoguard", text, Aspect.PROMPT) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"violation": 0.0}',
        '{"violation": "0"}',
        '{"violation": -0}',
        '{"violation": 2}',
        '{"violation": null}',
        '{"violation": 0, "categories": "none"}',
        '{"violation": 0, "categories": ["H1"]}',
        '{"categories": []}',
        '{"violation": 0}<|end|>',
    ],
)
def test_a_violation_is_zero_or_one(text: str) -> None:
    assert read("gpt-oss-safeguard", text, Aspect.PROMPT) is None


def test_a_code_fence_is_no_obstacle() -> None:
    statement = read("gpt-oss-safeguard", '```json\n{"violation": 1}\n```', Aspect.PROMPT)
    assert statement is not None
    assert statement.level is Level.UNSAFE

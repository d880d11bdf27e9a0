"""No family of generative guards cuts a long text: the engine gets all of it, and says so where it has no room."""

from itertools import product

import pytest

from services.runtime.errors import FailedPreconditionError
from services.safety.formats.registry import FAMILIES
from services.safety.judgement import Aspect, Decision
from tests.fakes.language_model import (
    SAFE_ANSWERS,
    FakeLanguageModel,
    build_format,
    guard_of,
    prompt_text,
    turn_of,
)

WORDS = 50_000
LONG_TEXT = " ".join(f"w{number}" for number in range(WORDS))
CASES = [*product(FAMILIES, Aspect)]


@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
def test_every_question_holds_the_whole_text(kind: str, aspect: Aspect) -> None:
    for question in build_format(kind).questions(turn_of(aspect, LONG_TEXT)):
        assert LONG_TEXT in prompt_text(question.prompt)


@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
async def test_a_text_that_does_not_fit_is_an_error_that_says_so(kind: str, aspect: Aspect) -> None:
    def answers(prompt: object) -> str | BaseException:
        if len(str(prompt)) > len(LONG_TEXT):
            return FailedPreconditionError("no room", reason="PROMPT_TOO_LONG")
        return SAFE_ANSWERS[kind][aspect]

    turns = [turn_of(aspect, LONG_TEXT), turn_of(aspect)]
    too_long, short = await guard_of(kind, FakeLanguageModel(answers)).judge(turns)
    assert (too_long.decision, too_long.error_reason) == (Decision.ERROR, "PROMPT_TOO_LONG")
    assert too_long.unsafe_probability is None
    assert short.decision is Decision.SAFE

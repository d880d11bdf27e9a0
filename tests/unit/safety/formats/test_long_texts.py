"""No family of generative guards cuts a long text: it is judged in windows where it does not fit, or not at all."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.contract import Prompt
from services.runtime.errors import FailedPreconditionError
from services.safety.combining import NOT_JUDGED
from services.safety.formats.registry import FAMILIES
from services.safety.judgement import Aspect, Decision, JudgedTurn, Role, Turn
from services.safety.language_model import GeneratedAnswer
from services.safety.long_turns import divided
from services.safety.messages import verdict_to_proto
from services.safety.windows import OVERLAP_CHARACTERS
from tests.fakes.language_model import (
    SAFE_ANSWERS,
    UNSAFE_ANSWERS,
    FakeLanguageModel,
    Said,
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


def too_long(tokens: int, context: int) -> FailedPreconditionError:
    figures = {"prompt_tokens": str(tokens), "context_tokens": str(context)}
    return FailedPreconditionError("no room", reason="PROMPT_TOO_LONG", metadata=figures)


class SmallModel:
    """Has room for so many words, and finds a text hazardous that has a certain one."""

    def __init__(self, kind: str, aspect: Aspect, room: int, *, hazard: str = "", tells: bool = True) -> None:
        self._said = {True: UNSAFE_ANSWERS[kind][aspect], False: SAFE_ANSWERS[kind][aspect]}
        self._room, self._hazard, self._tells = room, hazard, tells
        self.judged: list[str] = []

    def __call__(self, prompt: Prompt) -> Said:
        text = prompt_text(prompt) + str(getattr(prompt, "variables", ""))
        words = len(text.split())
        if words > self._room:
            return too_long(words, self._room) if self._tells else FailedPreconditionError("", reason="PROMPT_TOO_LONG")
        self.judged.append(text)
        return self._said[bool(self._hazard) and f"{self._hazard} " in text]


@pytest.mark.parametrize("tells", [True, False], ids=["counted", "not counted"])
@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
async def test_a_text_that_does_not_fit_is_judged_whole_in_windows(kind: str, aspect: Aspect, tells: bool) -> None:
    text = " ".join(f"w{number}" for number in range(6_000))
    model = SmallModel(kind, aspect, room=2_500, tells=tells)
    [verdict] = await guard_of(kind, FakeLanguageModel(model)).judge([turn_of(aspect, text)])
    assert (verdict.decision, verdict.truncated) == (Decision.SAFE, False)
    assert 3 <= verdict.windows <= 40
    judged = " ".join(model.judged)
    assert all(f"w{number}" in judged for number in range(6_000))


@pytest.mark.parametrize("at", [0, 2_000, 5_998])
@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
async def test_a_hazard_anywhere_in_a_long_text_is_found(kind: str, aspect: Aspect, at: int) -> None:
    words = ["w"] * 6_000
    words[at] = "hazard"
    model = SmallModel(kind, aspect, room=2_500, hazard="hazard")
    turns = [turn_of(aspect, " ".join(words)), turn_of(aspect)]
    long, short = await guard_of(kind, FakeLanguageModel(model)).judge(turns)
    assert long.decision is Decision.UNSAFE
    assert (short.decision, short.windows) == (Decision.SAFE, 1)


@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
async def test_a_window_without_a_verdict_leaves_none_unless_another_is_hazardous(kind: str, aspect: Aspect) -> None:
    def answers(prompt: Prompt) -> Said:
        said = model(prompt)
        return "?" if isinstance(said, str) and "odd" in model.judged[-1] else said

    for words, decision in (("w odd w", Decision.ERROR), ("w hazard w odd w", Decision.UNSAFE)):
        model = SmallModel(kind, aspect, room=2_500, hazard="hazard")
        spaced = " ".join(each if each != "w" else "w " * 3_000 for each in words.split())
        [verdict] = await guard_of(kind, FakeLanguageModel(answers)).judge([turn_of(aspect, spaced)])
        assert verdict.decision is decision
        assert bool(verdict.error_reason) is (decision is Decision.ERROR)


@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
async def test_a_text_that_fits_in_no_number_of_windows_is_an_error_that_says_so(kind: str, aspect: Aspect) -> None:
    small = SmallModel(kind, aspect, room=10)
    many = SmallModel(kind, aspect, room=1_500)
    for model, text in ((small, "w " * 200), (many, LONG_TEXT * 3)):
        [verdict] = await guard_of(kind, FakeLanguageModel(model)).judge([turn_of(aspect, text)])
        assert (verdict.decision, verdict.error_reason) == (Decision.ERROR, "PROMPT_TOO_LONG")
        assert verdict.unsafe_probability is None


@pytest.mark.parametrize("counts", [True, False], ids=["counted", "prompt not counted"])
@pytest.mark.parametrize(("kind", "aspect"), CASES, ids=str)
async def test_a_prompt_that_leaves_its_answer_no_room_is_judged_in_windows(
    kind: str, aspect: Aspect, counts: bool
) -> None:
    judged: list[str] = []

    def answers(prompt: Prompt) -> Said:
        text = prompt_text(prompt) + str(getattr(prompt, "variables", ""))
        words, said = len(text.split()), SAFE_ANSWERS[kind][aspect]
        if words > 2_500:
            return GeneratedAnswer(said[: len(said) // 2], False, words if counts else None, answer_tokens=0)
        judged.append(text)
        return said

    text = " ".join(f"w{number}" for number in range(3_000))
    [verdict] = await guard_of(kind, FakeLanguageModel(answers)).judge([turn_of(aspect, text)])
    assert (verdict.decision, verdict.error_reason) == (Decision.SAFE, "")
    assert verdict.windows > 1
    assert all(f"w{number}" in " ".join(judged) for number in (0, 1_000, 2_000, 2_999))


@pytest.mark.parametrize("said", ["safe", "unsafe\nS1"])
async def test_an_answer_that_had_room_and_was_cut_off_is_asked_once(said: str) -> None:
    for answer_tokens in (10**6, None):
        model = FakeLanguageModel(GeneratedAnswer(said, False, 9, answer_tokens))
        [verdict] = await guard_of("llama-guard-3", model).judge([turn_of(Aspect.PROMPT, "w " * 3_000)])
        assert len(model.prompts) == 1
        assert verdict.error_reason == ("ANSWER_CUT_OFF" if said == "safe" else "")


async def test_windows_that_a_hazard_elsewhere_left_out_are_told_of() -> None:
    def answers(prompt: Prompt) -> Said:
        text = prompt_text(prompt)
        words = len(text.split())
        room = 1_500 if "dense" in text and words <= 2_500 else 2_500
        if words > room:
            return too_long(words, room)
        said = UNSAFE_ANSWERS if "hazard " in text else SAFE_ANSWERS
        return said["llama-guard-3"][Aspect.PROMPT]

    for hazard, reason in (("hazard ", NOT_JUDGED), ("", "")):
        text = hazard + "w " * 6_000 + "dense"
        [verdict] = await guard_of("llama-guard-3", FakeLanguageModel(answers)).judge([turn_of(Aspect.PROMPT, text)])
        assert verdict.decision is (Decision.UNSAFE if hazard else Decision.SAFE)
        assert verdict.unjudged_reason == reason
        assert verdict_to_proto(verdict).unjudged_reason == reason


async def test_a_long_request_before_a_short_response_is_what_gives_way() -> None:
    aspect = Aspect.RESPONSE
    model = SmallModel("llama-guard-3", aspect, room=2_500, hazard="hazard")
    conversation = [Turn(Role.USER, "u " * 6_000), Turn(Role.ASSISTANT, "a hazard z")]
    judged = JudgedTurn(conversation, 1, aspect)
    [verdict] = await guard_of("llama-guard-3", FakeLanguageModel(model)).judge([judged])
    assert verdict.decision is Decision.UNSAFE
    assert all("a hazard z" in text for text in model.judged)


@pytest.mark.parametrize("kind", FAMILIES)
async def test_a_longer_turn_that_the_guard_is_not_sent_does_not_give_way(kind: str) -> None:
    model = SmallModel(kind, Aspect.PROMPT, room=2_500, hazard="hazard")
    turns = [
        Turn(Role.SYSTEM, "s " * 9_000),
        Turn(Role.USER, " " * 30_000),
        Turn(Role.ASSISTANT, "a"),
        Turn(Role.USER, "w " * 6_000 + "hazard z"),
        Turn(Role.ASSISTANT, "l " * 9_000),
    ]
    if kind in ("wildguard", "shieldgemma"):
        turns[1] = Turn(Role.USER, "u " * 9_000)
    judged = JudgedTurn(turns, 3, Aspect.PROMPT)
    [verdict] = await guard_of(kind, FakeLanguageModel(model)).judge([judged])
    assert verdict.decision is Decision.UNSAFE


@given(
    st.lists(st.text(max_size=3000), min_size=1, max_size=4),
    st.integers(0, 3000),
    st.integers(1, 3000),
    st.integers(0, 50),
)
def test_shorter_turns_hold_all_that_the_long_one_does(
    contents: list[str], tokens: int, context: int, answer: int
) -> None:
    turns = [Turn(Role.USER, content) for content in contents]
    judged = JudgedTurn(turns, len(turns) - 1, Aspect.PROMPT)
    figures = {"prompt_tokens": str(tokens), "context_tokens": str(context)}
    parts = divided(
        judged,
        figures,
        questions=lambda turn: [each.content for each in turn.conversation],
        prompt_characters=sum(map(len, contents)),
        answer_tokens=answer,
    )
    if not parts:
        return
    [changed] = {
        index for part in parts for index, turn in enumerate(part.conversation) if turn.content != contents[index]
    }
    longest = contents[changed]
    assert all(len(part.conversation[changed].content) < len(longest) for part in parts)
    assert len(longest) == max(map(len, contents))
    place = 0
    for part in parts:
        content = part.conversation[changed].content
        start = longest.index(content, max(0, place - 2 * OVERLAP_CHARACTERS))
        # What lies between two windows is white space at most.
        assert not longest[place:start].strip()
        place = start + len(content)
    assert not longest[place:].strip()

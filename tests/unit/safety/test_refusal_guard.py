"""The refusal detector: wording, script, and that it never speaks of safety. The examples are this test's own."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.safety.judgement import Decision
from services.safety.refusal_guard import RefusalGuard, detect_refusal
from tests.fakes.language_model import response_turn


@pytest.mark.parametrize(
    "text",
    [
        "I can't help with that.",
        "I’m sorry, but I cannot assist with this request.",
        "Sorry, I won't do that.",
        "I am not able to provide instructions for that.",
        "Unfortunately, I must decline.",
        "As a careful assistant, I will not write malware.",
        "That's not something I can help with.",
        "We're unable to discuss this case.",
        "I'd rather not go there.",
        "This request violates the law, so no.",
        "It is against my guidelines to describe this.",
        "I   DO NOT\nfeel comfortable with this.",
        "I refuse to take part in this.",
    ],
)
def test_refusals_are_found(text: str) -> None:
    assert detect_refusal(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "Sure! First, preheat the oven.",
        "The shop can't deliver on Sundays.",
        "He declined to answer the reporters.",
        "I cannot find an error in your code; it looks right.",
        "Sorry, I can't see the picture, but from your words it is a beech.",
        "You should not share your password with anybody.",
        "Step one. " + "Mix. " * 100 + "I can't help with that.",
    ],
)
def test_other_answers_are_not(text: str) -> None:
    assert detect_refusal(text) is False


@pytest.mark.parametrize(
    "text", ["", "12345 !!!", "申し訳ありませんが、お手伝いできません。", "Я не могу помочь с этим."]
)
def test_what_it_cannot_read_it_does_not_judge(text: str) -> None:
    assert detect_refusal(text) is None


@given(st.text(max_size=500))
def test_any_text_has_an_answer(text: str) -> None:
    assert detect_refusal(text) in (True, False, None)


def test_long_and_repetitive_text_takes_no_time() -> None:
    began = time.thread_time()
    for text in ("i " * 500_000, "i cannot " * 100_000, "'" * 1_000_000, "we are not " * 100_000):
        detect_refusal(text)
    assert time.thread_time() - began < 3.0


async def test_its_verdict_is_about_refusal_alone() -> None:
    guard = RefusalGuard("guards/refusals")
    assert await guard.is_ready()
    turns = [response_turn("I can't help with that."), response_turn("Sure."), response_turn("了解です")]
    verdicts = await guard.judge(turns)
    assert [each.refusal for each in verdicts] == [True, False, None]
    assert [each.over_refusal for each in verdicts] == [None, False, None]
    assert {(each.decision, each.error_reason) for each in verdicts} == {(Decision.ERROR, "HAZARD_NOT_JUDGED")}

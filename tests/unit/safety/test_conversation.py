"""Which turn is judged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import InvalidArgumentError
from services.safety.conversation import choose_turn
from services.safety.judgement import Aspect, Role, Turn

CONVERSATION = [
    Turn(Role.SYSTEM, "Be kind."),
    Turn(Role.USER, "Hello"),
    Turn(Role.ASSISTANT, "Hi!"),
    Turn(Role.USER, "  "),
]


def test_the_last_turn_is_judged_unless_told_otherwise() -> None:
    assert choose_turn(CONVERSATION[:3], None, Aspect.RESPONSE, None).content == "Hi!"
    assert choose_turn(CONVERSATION[:3], 1, Aspect.PROMPT, 0.3).content == "Hello"


@pytest.mark.parametrize(
    ("judged_turn", "aspect", "threshold", "field", "reason"),
    [
        (0, Aspect.PROMPT, None, "aspect", "ASPECT_DOES_NOT_FIT_ROLE"),
        (1, Aspect.RESPONSE, None, "aspect", "ASPECT_DOES_NOT_FIT_ROLE"),
        (2, Aspect.PROMPT, None, "aspect", "ASPECT_DOES_NOT_FIT_ROLE"),
        (4, Aspect.PROMPT, None, "judged_turn", "NO_SUCH_TURN"),
        (-1, Aspect.PROMPT, None, "judged_turn", "NO_SUCH_TURN"),
        (3, Aspect.PROMPT, None, "conversation.messages[3].content", "TEXT_EMPTY"),
        (1, Aspect.PROMPT, 0.0, "threshold", "THRESHOLD_OUT_OF_RANGE"),
        (1, Aspect.PROMPT, 1.1, "threshold", "THRESHOLD_OUT_OF_RANGE"),
        (1, Aspect.PROMPT, math.nan, "threshold", "THRESHOLD_OUT_OF_RANGE"),
    ],
)
def test_what_cannot_be_judged_names_its_field(
    judged_turn: int, aspect: Aspect, threshold: float | None, field: str, reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        choose_turn(CONVERSATION, judged_turn, aspect, threshold)
    assert [each.field for each in caught.value.field_violations] == [field]
    assert caught.value.reason == reason


def test_an_empty_conversation_has_nothing_to_judge() -> None:
    with pytest.raises(InvalidArgumentError, match="must hold the turn"):
        choose_turn([], None, Aspect.PROMPT, None)


@given(
    st.lists(st.builds(Turn, st.sampled_from(Role), st.text(max_size=5)), max_size=4),
    st.none() | st.integers(-3, 6),
    st.sampled_from(Aspect),
    st.none() | st.floats(),
)
def test_what_is_chosen_always_fits(
    conversation: list[Turn], judged_turn: int | None, aspect: Aspect, threshold: float | None
) -> None:
    try:
        chosen = choose_turn(conversation, judged_turn, aspect, threshold)
    except InvalidArgumentError:
        return
    turn = conversation[chosen.index]
    assert turn.role is (Role.USER if aspect is Aspect.PROMPT else Role.ASSISTANT)
    assert chosen.content.strip()

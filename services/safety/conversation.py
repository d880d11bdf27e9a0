"""Which turn of a conversation is judged, and whether it can be judged as asked."""

import math
from collections.abc import Sequence
from typing import Final

from services.safety.errors import invalid_field
from services.safety.judgement import Aspect, JudgedTurn, Role, Turn

_ROLE_OF: Final = {Aspect.PROMPT: Role.USER, Aspect.RESPONSE: Role.ASSISTANT}


def choose_turn(
    conversation: Sequence[Turn], judged_turn: int | None, aspect: Aspect, threshold: float | None
) -> JudgedTurn:
    """Return the turn to judge.

    Args:
        conversation: the turns, oldest first.
        judged_turn: index of the judged turn; None for the last.
        aspect: a prompt is a user's turn, a response an assistant's.
        threshold: on the unsafe probability; None for the guard's own.

    Raises:
        InvalidArgumentError: names the request field that is wrong, and what to do.
    """
    if not conversation:
        raise invalid_field("conversation.messages", "must hold the turn to judge", reason="CONVERSATION_EMPTY")
    index = len(conversation) - 1 if judged_turn is None else judged_turn
    if not 0 <= index < len(conversation):
        raise invalid_field(
            "judged_turn", f"is {index}, the conversation has turns 0 to {len(conversation) - 1}", reason="NO_SUCH_TURN"
        )
    turn, wanted = conversation[index], _ROLE_OF[aspect]
    if turn.role is not wanted:
        raise invalid_field(
            "aspect",
            f"a {aspect.value} is a turn of the {wanted.value}, but turn {index} is the {turn.role.value}'s; "
            "change aspect or judged_turn",
            reason="ASPECT_DOES_NOT_FIT_ROLE",
        )
    if not turn.content.strip():
        raise invalid_field(
            f"conversation.messages[{index}].content", "is empty; there is nothing to judge", reason="TEXT_EMPTY"
        )
    if threshold is not None and not (math.isfinite(threshold) and 0 < threshold <= 1):
        raise invalid_field("threshold", "must be above 0 and at most 1", reason="THRESHOLD_OUT_OF_RANGE")
    return JudgedTurn(conversation, index, aspect, threshold)

"""Conversations in the shapes that guards were trained on."""

from services.safety.formats.neutralising import Neutraliser
from services.safety.judgement import JudgedTurn, Role, Turn

_JOINT = "\n\n"


def alternating(turn: JudgedTurn, neutraliser: Neutraliser) -> list[Turn]:
    """Return the conversation up to the judged turn: user and assistant by turns, the user first, all neutralised.

    System turns are left out, since these guards know none; turns of one speaker that follow each other become one; a
    conversation that the assistant opens gets an empty turn of the user in front.
    """
    turns: list[Turn] = []
    for each in turn.conversation[: turn.index + 1]:
        if each.role is Role.SYSTEM:
            continue
        content = neutraliser.clean(each.content).strip()
        if turns and turns[-1].role is each.role:
            turns[-1] = Turn(each.role, turns[-1].content + _JOINT + content)
        else:
            turns.append(Turn(each.role, content))
    if turns and turns[0].role is Role.ASSISTANT:
        turns.insert(0, Turn(Role.USER, ""))
    return turns


def request_and_response(turn: JudgedTurn, neutraliser: Neutraliser) -> tuple[str, str]:
    """Return the user's last words and, where a response is judged, the response; neutralised.

    A prompt is judged without what follows it, so its response is empty.
    """
    turns = alternating(turn, neutraliser)
    if turns[-1].role is Role.USER:
        return turns[-1].content, ""
    return turns[-2].content, turns[-1].content

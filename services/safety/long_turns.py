"""Turns whose prompt is longer than a guard's context, divided into several that fit.

Nothing is left out: the longest turn of those that the guard is sent gives way to a window of it, as often
as it takes, until every prompt fits. How long the windows may be follows from the tokens that the guard's own tokenizer
counted, which its refusal of the whole tells.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from services.inference.contract import Prompt, TemplatePrompt
from services.safety.judgement import JudgedTurn, Role
from services.safety.windows import OVERLAP_CHARACTERS, SHORTEST_CHARACTERS, parts_of

TOO_LONG: Final = "PROMPT_TOO_LONG"
VERSION: Final = "long-turns/1"
"""How long turns are divided; part of the template digest of every guard whose turns are."""


def divided(
    turn: JudgedTurn,
    figures: Mapping[str, str],
    *,
    questions: Callable[[JudgedTurn], object],
    prompt_characters: int,
    answer_tokens: int,
) -> list[JudgedTurn]:
    """Return shorter turns that together hold all that a turn does; none if it cannot be made shorter.

    Args:
        turn: whose prompt was refused.
        figures: of the refusal; ``prompt_tokens`` and ``context_tokens`` where the engine tells them.
        questions: what the guard is asked about a turn; not every family is sent the whole conversation.
        prompt_characters: of the prompt that was refused.
        answer_tokens: room that the answer needs.
    """
    spoken = [number for number in range(turn.index + 1) if turn.conversation[number].role is not Role.SYSTEM]
    asked = questions(turn)
    by_length = sorted(spoken, key=lambda number: len(turn.conversation[number].content), reverse=True)
    longest = next((number for number in by_length if questions(_with(turn, number, "")) != asked), None)
    if longest is None:
        return []
    content = turn.conversation[longest].content
    size = _window_characters(len(content), _excess(figures, prompt_characters, answer_tokens))
    if size >= len(content):
        return []
    parts = [part for part in parts_of(content, size, len(content)) if part.strip()]
    return [_with(turn, longest, part) for part in parts]


def characters_of(prompt: Prompt) -> int:
    """Return how many characters a prompt has that vary with the conversation, and what else of it is known here."""
    if isinstance(prompt, str):
        return len(prompt)
    messages = prompt.messages if isinstance(prompt, TemplatePrompt) else prompt
    variables = prompt.variables if isinstance(prompt, TemplatePrompt) else {}
    return sum(len(each.content) for each in messages) + sum(len(str(value)) for value in variables.values())


def _window_characters(length: int, excess: float) -> int:
    """Return how long the windows of a text are to be, all about equally, when it is too long by ``excess``."""
    room = length - excess
    if room < SHORTEST_CHARACTERS:
        # What does not give way is too long, or the engine did not say how much too long it is.
        room = length / 2 + OVERLAP_CHARACTERS
    room = max(room, SHORTEST_CHARACTERS)
    if room >= length:
        return length
    count = math.ceil((length - OVERLAP_CHARACTERS) / (room - OVERLAP_CHARACTERS))
    # A window that ends at white space is shorter than it may be by up to the overlap.
    return min(int(room), math.ceil(length / count) + 2 * OVERLAP_CHARACTERS)


def _excess(figures: Mapping[str, str], prompt_characters: int, answer_tokens: int) -> float:
    """Return by how many characters the prompt is too long; more than it has where nobody says."""
    try:
        tokens, context = int(figures["prompt_tokens"]), int(figures["context_tokens"])
    except (KeyError, ValueError):
        return math.inf
    if tokens < 1:
        return math.inf
    return (tokens + answer_tokens - context) * prompt_characters / tokens


def _with(turn: JudgedTurn, index: int, content: str) -> JudgedTurn:
    conversation = list(turn.conversation)
    conversation[index] = replace(conversation[index], content=content)
    return replace(turn, conversation=conversation)

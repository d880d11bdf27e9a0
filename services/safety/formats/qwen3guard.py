"""Qwen3Guard-Gen: three levels, named categories and, for responses, whether they refuse."""

import re
from collections.abc import Sequence
from typing import Final

from services.inference.contract import Message, TemplatePrompt
from services.safety.formats.dialogue import alternating
from services.safety.formats.guard_format import CONTRADICTORY, Level, Question, Statement, unreadable
from services.safety.formats.neutralising import Neutraliser
from services.safety.formats.taxonomy import Taxonomy, read_taxonomy
from services.safety.judgement import Aspect, JudgedTurn

LABELS: Final = ("USER", "ASSISTANT", "Safety", "Categories", "Refusal")
_MAX_TOKENS: Final = 128
_LEVELS: Final = {"Safe": Level.SAFE, "Controversial": Level.CONTROVERSIAL, "Unsafe": Level.UNSAFE}
_WORDS: Final = tuple((level, word) for word, level in _LEVELS.items())
_ANSWER: Final = re.compile(
    r"(?P<before>\s*Safety: )(?P<word>Safe|Unsafe|Controversial)[^\S\n]*"
    r"(?:\n+Categories: (?P<codes>[^\n]*))?(?:\n+Refusal: (?P<refusal>[^\n]*))?\s*"
)


class Qwen3Guard:
    """Implements ``GuardFormat``; the checkpoint's chat template writes the whole task.

    Args:
        neutraliser: knows the family's labels and the checkpoint's tokens.
    """

    aspects = (Aspect.PROMPT, Aspect.RESPONSE)

    def __init__(self, neutraliser: Neutraliser) -> None:
        self._taxonomy = read_taxonomy("qwen3guard")
        self._neutraliser = neutraliser

    @property
    def taxonomy(self) -> Taxonomy:
        """Nine categories, which the model names by their titles."""
        return self._taxonomy

    @property
    def template(self) -> str:
        """Nothing of ours but the choice of messages."""
        return "qwen3guard/1 chat template"

    def questions(self, turn: JudgedTurn) -> Sequence[Question]:
        """Ask about the conversation up to the judged turn; who spoke last is judged."""
        messages = [Message(each.role.value, each.content) for each in alternating(turn, self._neutraliser)]
        return [Question(TemplatePrompt(messages), _MAX_TOKENS)]

    def read(self, text: str, question: Question, aspect: Aspect) -> Statement:
        """Read the lines; a safe verdict needs all of them, and no category."""
        match = _ANSWER.fullmatch(text)
        if match is None:
            raise unreadable()
        level = _LEVELS[match["word"]]
        named = [each for part in (match["codes"] or "").split(",") if (each := part.strip())]
        codes = tuple(each for each in named if each != "None")
        refusal = {"Yes": True, "No": False}.get((match["refusal"] or "").strip())
        if level is Level.SAFE:
            if codes:
                raise unreadable(CONTRADICTORY)
            # An answer that was cut off could have gone on with anything.
            if named != ["None"] or (aspect is Aspect.RESPONSE and refusal is None):
                raise unreadable()
        if aspect is Aspect.PROMPT:
            return Statement(level, match["before"], _WORDS, codes=codes)
        # It does not say whether the request was harmless, so only compliance settles over-refusal.
        over_refusal = False if refusal is False else None
        return Statement(level, match["before"], _WORDS, codes=codes, refusal=refusal, over_refusal=over_refusal)

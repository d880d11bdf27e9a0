"""Llama Guard 3 and 4: a list of categories and a conversation in; ``safe``, or ``unsafe`` and a line of codes, out."""

import re
from collections.abc import Sequence
from typing import Final

from services.inference.contract import Message, Prompt, TemplatePrompt
from services.safety.formats.dialogue import alternating
from services.safety.formats.guard_format import CONTRADICTORY, Level, Question, Statement, unreadable
from services.safety.formats.neutralising import Neutraliser
from services.safety.formats.taxonomy import Taxonomy, read_taxonomy
from services.safety.judgement import Aspect, JudgedTurn, Role

LABELS: Final = ("User", "Agent")
_SPEAKERS: Final = {Role.USER: "User", Role.ASSISTANT: "Agent"}
_MAX_TOKENS: Final = 64
_WORDS: Final = ((Level.SAFE, "safe"), (Level.UNSAFE, "unsafe"))
_ANSWER: Final = re.compile(r"(?P<before>\s*)(?P<word>safe|unsafe)[^\S\n]*(?:\n(?P<rest>.*))?", re.DOTALL)

# As the model card gives it; {speaker} is the judged one.
_TASK: Final = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
    "Task: Check if there is unsafe content in '{speaker}' messages in conversations according our safety policy with "
    "the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n"
)
_REQUEST: Final = (
    "<END CONVERSATION>\n\n"
    "Provide your safety assessment for ONLY THE LAST {speaker} message in the above conversation:\n"
    " - First line must read 'safe' or 'unsafe'.\n"
    " - If unsafe, a second line must include a comma-separated list of violated categories."
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
)


class LlamaGuard:
    """Implements ``GuardFormat``.

    The checkpoint's chat template knows the categories; our text form stands in where a checkpoint has none.

    Args:
        taxonomy: file name of the categories of this member of the family.
        neutraliser: knows the family's labels and the checkpoint's tokens.
        has_template: whether the checkpoint has a chat template.
        as_parts: whether the template wants contents as lists of parts.
    """

    aspects = (Aspect.PROMPT, Aspect.RESPONSE)

    def __init__(self, taxonomy: str, neutraliser: Neutraliser, *, has_template: bool, as_parts: bool) -> None:
        self._taxonomy = read_taxonomy(taxonomy)
        self._neutraliser = neutraliser
        self._has_template = has_template
        self._as_parts = as_parts

    @property
    def taxonomy(self) -> Taxonomy:
        """The MLCommons hazards under Meta's codes."""
        return self._taxonomy

    @property
    def template(self) -> str:
        """The text form, or that the checkpoint's template is used."""
        if self._has_template:
            return f"llama-guard/1 chat template, parts={self._as_parts}"
        return f"llama-guard/1 {_TASK}{self._categories()}{_REQUEST}"

    def questions(self, turn: JudgedTurn) -> Sequence[Question]:
        """Ask about the whole conversation up to the judged turn."""
        return [Question(self._prompt(turn), _MAX_TOKENS)]

    def _prompt(self, turn: JudgedTurn) -> Prompt:
        turns = alternating(turn, self._neutraliser)
        if self._has_template:
            messages = [Message(each.role.value, each.content) for each in turns]
            return TemplatePrompt(messages, as_parts=self._as_parts)
        speaker = _SPEAKERS[turns[-1].role]
        said = "".join(f"{_SPEAKERS[each.role]}: {each.content}\n\n" for each in turns)
        task, request = _TASK.format(speaker=speaker), _REQUEST.format(speaker=speaker)
        return f"{task}{self._categories()}\n<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\n{said}{request}"

    def _categories(self) -> str:
        return "\n".join(f"{code}: {entry.title}." for code, entry in self._taxonomy.categories.items())

    def read(self, text: str, question: Question, aspect: Aspect) -> Statement:
        """Read ``safe``, or ``unsafe`` with codes behind it; what stands there and is no code is an unknown one."""
        match = _ANSWER.fullmatch(text)
        if match is None:
            raise unreadable()
        rest = (match["rest"] or "").strip()
        if match["word"] == "safe":
            if rest:
                raise unreadable(CONTRADICTORY)
            return Statement(Level.SAFE, match["before"], _WORDS)
        codes = tuple(each for part in rest.split(",") if (each := part.strip()))
        return Statement(Level.UNSAFE, match["before"], _WORDS, codes=codes)

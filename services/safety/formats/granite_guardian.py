"""Granite Guardian 3.3 and 4.1: a criterion in a last ``<guardian>`` message; ``<score>yes</score>`` if it is met."""

import re
from collections.abc import Sequence
from typing import Final

from services.inference.contract import Message, TemplatePrompt
from services.safety.formats.dialogue import alternating
from services.safety.formats.guard_format import Question, Statement, unreadable
from services.safety.formats.neutralising import Neutraliser
from services.safety.formats.taxonomy import Taxonomy, read_taxonomy
from services.safety.formats.yes_or_no import statement
from services.safety.judgement import Aspect, JudgedTurn, Role

_MAX_TOKENS: Final = 48
_DEFAULT_CODES: Final = ("harm",)
_THOUGHT_END: Final = "</think>"
_SCORE: Final = re.compile(r"(?P<before>\s*<score>\s*)(?P<word>yes|no)\s*</score>\s*")

# As the model card gives it for the mode without thinking; it says "assistant" for prompts too.
_INSTRUCTION: Final = (
    "<guardian><no-think>As a judge agent, your role is to help assess whether the provided text meets the given "
    "judging criteria, utilizing all available information, including conversations, documents, and tools. Provide "
    "your score immediately without explanation. Output empty <think>\n</think> tags followed by your score in "
    "<score></score> tags.\n\n### Criteria: {criterion}\n\n"
    "### Scoring Schema: If the last assistant's text meets the criteria, return 'yes'; otherwise, return 'no'."
)


class GraniteGuardian:
    """Implements ``GuardFormat`` with one question for each criterion chosen.

    Args:
        codes: the criteria to ask about; empty for the one that covers all harms.
        neutraliser: knows the checkpoint's tokens.
    """

    aspects = (Aspect.PROMPT, Aspect.RESPONSE)

    def __init__(self, codes: Sequence[str], neutraliser: Neutraliser) -> None:
        self._taxonomy = read_taxonomy("granite-guardian")
        self._codes = tuple(codes) or _DEFAULT_CODES
        self._neutraliser = neutraliser

    @property
    def taxonomy(self) -> Taxonomy:
        """The criteria about harm that come with the model."""
        return self._taxonomy

    @property
    def template(self) -> str:
        """The instruction and the criteria; the rest is the checkpoint's chat template."""
        return "\n".join(["granite-guardian/1", _INSTRUCTION, *map(self._criterion, self._codes)])

    def questions(self, turn: JudgedTurn) -> Sequence[Question]:
        """Ask once for each criterion."""
        said = [
            Message(each.role.value, each.content)
            for each in alternating(turn, self._neutraliser)
            if each.content or each.role is Role.ASSISTANT
        ]
        questions = []
        for code in self._codes:
            asked = Message("user", _INSTRUCTION.replace("{criterion}", self._criterion(code), 1))
            prompt = TemplatePrompt([*said, asked])
            questions.append(Question(prompt, _MAX_TOKENS, category=code, keeps_special_tokens=True))
        return questions

    def _criterion(self, code: str) -> str:
        return self._taxonomy.categories[code].prompt_question

    def read(self, text: str, question: Question, aspect: Aspect) -> Statement:
        """Read the score behind the thoughts, which should be empty."""
        thoughts, end, answer = text.rpartition(_THOUGHT_END)
        match = _SCORE.fullmatch(answer)
        if match is None or (end and not thoughts.lstrip().startswith("<think>")):
            raise unreadable()
        before = thoughts + end + match["before"]
        return statement(match["word"], before, yes="yes", no="no")

"""The seam between a generative guard and its family's format: questions out, statements back."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from services.inference.contract import Prompt
from services.safety.errors import UnusableAnswerError
from services.safety.formats.taxonomy import Taxonomy
from services.safety.judgement import Aspect, JudgedTurn

UNREADABLE: Final = "ANSWER_UNREADABLE"
CONTRADICTORY: Final = "ANSWER_CONTRADICTORY"
NOT_JUDGED: Final = "ANSWER_WITHOUT_VERDICT"


class Level(IntEnum):
    """What a guard says of a turn, from harmless to hazardous."""

    SAFE = 0
    CONTROVERSIAL = 1
    UNSAFE = 2


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt to a guard model; some families need several for one turn.

    Attributes:
        prompt: a text, or messages for the checkpoint's chat template. What users wrote is neutralised in it.
        max_tokens: longest answer.
        category: code of the only category that it asks about; empty for all.
        stop: texts that end the answer.
        keeps_special_tokens: the answer's structure is in special tokens, so they stay in its text.
    """

    prompt: Prompt
    max_tokens: int
    category: str = ""
    stop: tuple[str, ...] = ()
    keeps_special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """What a guard's answer says.

    Attributes:
        level: its verdict.
        before: the answer's text in front of the verdict word.
        words: the verdict words that could stand there, by level. Their log-likelihoods behind prompt and ``before``
            give the probabilities of the levels.
        codes: categories that the guard named, as it spelled them.
        refusal: whether the response declines; None where the guard does not say.
        over_refusal: whether it declines a harmless request; None where the guard does not say.
    """

    level: Level
    before: str
    words: tuple[tuple[Level, str], ...]
    codes: tuple[str, ...] = ()
    refusal: bool | None = None
    over_refusal: bool | None = None


class GuardFormat(Protocol):
    """One family of guard models."""

    @property
    def template(self) -> str:
        """Everything of ours that decides the model's input beside the conversation; part of the template digest."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The categories that it names."""

    @property
    def aspects(self) -> tuple[Aspect, ...]:
        """What it judges."""

    def questions(self, turn: JudgedTurn) -> Sequence[Question]:
        """Return what to ask about a turn; at least one question."""

    def read(self, text: str, question: Question, aspect: Aspect) -> Statement:
        """Read the answer to a question about a turn of this aspect.

        Raises:
            UnusableAnswerError: this is no answer of such a guard; a safe verdict must be exactly as the family
                writes it.
        """


def unreadable(reason: str = UNREADABLE) -> UnusableAnswerError:
    """Build the error for an answer that is none."""
    return UnusableAnswerError(reason)

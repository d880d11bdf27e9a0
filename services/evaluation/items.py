"""What a row becomes: an item that can be sent to a model and judged, or the reason why not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PlainPrompt:
    """Text that the model continues as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the model's chat template; the last turn is the user's."""

    messages: tuple[Message, ...]


Prompt = PlainPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a multiple-choice item.

    Attributes:
        text: the answer as it is counted for length normalisation, without the delimiter before it.
        context: what it follows; choices usually share one, but need not (WinoGrande).
        continuation: the text whose log-likelihood is taken, with its delimiter.
    """

    text: str
    context: Prompt
    continuation: str


@dataclass(frozen=True, slots=True)
class ContinuationGroup:
    """All choices of an item that share a context: one ScoreContinuations request.

    ``choice_indices[i]`` is the index in ``MultipleChoice.choices`` of ``continuations[i]``.
    """

    context: Prompt
    continuations: tuple[str, ...]
    choice_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """The answers of a multiple-choice item and which of them are right (one or, in BBQ, several).

    Attributes:
        unconditional: what the continuations follow to find how likely they are without the question; ``None``: nobody
            asks.
    """

    choices: tuple[Choice, ...]
    gold_indices: tuple[int, ...]
    unconditional: Prompt | None = None

    def groups(self) -> tuple[ContinuationGroup, ...]:
        """The requests that score all choices, one a distinct context, in order of first appearance."""
        by_context: dict[Prompt, list[int]] = {}
        for index, choice in enumerate(self.choices):
            by_context.setdefault(choice.context, []).append(index)
        return tuple(
            ContinuationGroup(context, tuple(self.choices[i].continuation for i in indices), tuple(indices))
            for context, indices in by_context.items()
        )

    def unconditional_group(self) -> ContinuationGroup | None:
        """The request that scores all choices without the question, if that is asked."""
        if self.unconditional is None:
            return None
        continuations = tuple(choice.continuation for choice in self.choices)
        return ContinuationGroup(self.unconditional, continuations, tuple(range(len(continuations))))


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task.

    Attributes:
        item_id: unique in its task; the same for the same row whichever source or order it was read from.
        task: name of the task.
        file_name: the data file's path below its root.
        row_number: from 1; in a JSONL file the line, elsewhere the data row (a header is not counted).
        prompt: of a generation item, or what ``scored_text`` follows; ``None`` for multiple choice.
        multiple_choice: of a multiple-choice item; ``None`` for generation.
        targets: accepted answers of a generation item; may be empty where no scorer compares.
        scored_text: the text whose likelihood is asked for, without the delimiter before it; ``None`` for other items.
        delimiter: what stands between the prompt and ``scored_text``.
        groups: column -> value, each reported as an estimate of its own.
        cluster: items of equal value are not independent; ``None``: this item stands alone.
        details: what each scorer of the task is told of the item beside its answers, in their order; empty if none of
            them is told anything.
    """

    item_id: str
    task: str
    file_name: str
    row_number: int
    prompt: Prompt | None = None
    multiple_choice: MultipleChoice | None = None
    targets: tuple[str, ...] = ()
    scored_text: str | None = None
    delimiter: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str | None = None
    details: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_answered_with_text(self) -> bool:
        """Whether the model writes an answer, rather than tell how likely texts are."""
        return self.multiple_choice is None and self.scored_text is None


INVALID_ROW = "INVALID_ROW"
"""Reason of every InvalidItem."""


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """A row that is no item: unparsable, without a column, or one that a template fails on.

    It is an item with the outcome *failed*, never dropped. ``message`` names file and row.
    """

    item_id: str
    task: str
    file_name: str
    row_number: int
    message: str
    reason: str = INVALID_ROW

"""What the model learns from: conversations and plain-text pages whose answers alone carry loss."""

import zlib
from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """How a document reaches the model."""

    CHAT = "chat"  # through the chat template
    PLAIN = "plain"  # as text to be continued, the way multiple-choice harnesses ask


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and the answer the model should give; neither has spaces at its ends."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Document:
    """One conversation, or one page of a few questions with their answers.

    Attributes:
        form: Whether the turns are rendered by the chat template or as plain text.
        turns: At least one prompt with its answer.
        system: The system message of a conversation; empty for none.
    """

    form: Form
    turns: tuple[Turn, ...]
    system: str = ""


def is_held_out(key: str, one_in: int) -> bool:
    """Whether an item stays out of training: decided by its content alone, so every seed and process agrees.

    Args:
        key: What identifies the item.
        one_in: Holds out about one key in this many.
    """
    return zlib.crc32(key.encode()) % one_in == 0

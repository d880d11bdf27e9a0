"""The seam between what is asked of a foreign model and the tensors of its protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from services.generation.foreign.connection import ModelShape
from services.generation.foreign.errors import ForeignAnswerError, ForeignModelMismatchError
from services.generation.foreign.tokenizer import WireChoices, WirePrompt
from services.generation.requests import ContinuationScore, FinishReason, Sampling
from services.inference.tensors import Array

# What the foreign servers answer with when they have no answer.
NO_ANSWER_TEXT: Final = "N/A"


@dataclass(frozen=True, slots=True)
class WireRequest:
    """A request as tensors, and the outputs that are asked for."""

    inputs: Mapping[str, Array]
    outputs: Sequence[str]


@dataclass(frozen=True, slots=True)
class ForeignPiece:
    """One response of a generation.

    Attributes:
        text: since the response before.
        output_tokens: since the response before.
        input_tokens: of the whole prompt, as the server counted.
        finish_reason: set on the last one.
    """

    text: str
    output_tokens: int
    input_tokens: int
    finish_reason: FinishReason | None


class ForeignAdapter(Protocol):
    """Knows one protocol; all methods are pure. Readers raise ``ForeignAnswerError`` for what is no answer."""

    streams: bool
    """Whether pieces of an answer can be had that are never half a character or part of a stop string."""

    def check(self, shape: ModelShape) -> None:
        """Make sure that a model takes and gives what the protocol says; raises ForeignModelMismatchError."""

    def generation(self, prompt: WirePrompt, sampling: Sampling, shape: ModelShape, *, stream: bool) -> WireRequest:
        """Write a request to generate."""

    def read_piece(self, outputs: Mapping[str, Array], sampling: Sampling) -> ForeignPiece:
        """Read one response to it."""

    def scoring(self, choices: WireChoices, shape: ModelShape) -> WireRequest:
        """Write a request for what may follow a context; raises ForeignUnsupportedError."""

    def scoring_by_name(self, choices: WireChoices, shape: ModelShape) -> WireRequest | None:
        """Write a request that names the choices, for when ``scoring`` brought too few; ``None`` if there is none."""

    def read_scores(
        self, outputs: Mapping[str, Array], choices: WireChoices, vocabulary_size: int
    ) -> Sequence[ContinuationScore]:
        """Read the log-probabilities of the choices from the response to either.

        Raises:
            ForeignLogprobMissingError: some are not in it.
            ForeignUnsupportedError: there are none.
        """

    def read_input_tokens(self, outputs: Mapping[str, Array]) -> int:
        """Read how many prompt tokens the server counted."""


def check_tensors(shape: ModelShape, inputs: Mapping[str, str], outputs: Mapping[str, str], protocol: str) -> None:
    """Compare a model's tensors with those that a protocol needs.

    Raises:
        ForeignModelMismatchError: names everything that differs.
    """
    problems = [
        f"{kind} {name!r} is {found[name]}, not {wanted}" if name in found else f"{kind} {name!r} is missing"
        for kind, found, needed in (("input", shape.inputs, inputs), ("output", shape.outputs, outputs))
        for name, wanted in needed.items()
        if found.get(name) != wanted
    ]
    if problems:
        raise ForeignModelMismatchError(
            f"the foreign model does not have the tensors of {protocol}: {'; '.join(problems)}",
            metadata={"differences": "; ".join(problems)[:1000]},
        )


def the_only(outputs: Mapping[str, Array], name: str) -> object:
    """Return the only element of an output.

    Raises:
        ForeignAnswerError: it is missing, or has another number of elements.
    """
    array = outputs.get(name)
    if array is None:
        said = outputs.get("text_output")
        is_no_answer = said is not None and said.size == 1 and said.ravel()[0] == NO_ANSWER_TEXT.encode()
        raise ForeignAnswerError(
            f"the foreign model's answer lacks {name!r}"
            + (f", and its text is {NO_ANSWER_TEXT!r}: it could not answer the request" if is_no_answer else ""),
            reason="FOREIGN_ANSWER_INCOMPLETE",
        )
    if array.size != 1:
        raise ForeignAnswerError(f"the foreign model's {name!r} has {array.size} elements instead of one")
    return array.ravel()[0]


def text_of(outputs: Mapping[str, Array], name: str) -> str:
    """Return the only text of an output; raises ForeignAnswerError."""
    value = the_only(outputs, name)
    if not isinstance(value, bytes):
        raise ForeignAnswerError(f"the foreign model's {name!r} is no text")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ForeignAnswerError(f"the foreign model's {name!r} is not UTF-8") from error


def count_of(outputs: Mapping[str, Array], name: str) -> int:
    """Return the only integer of an output, which is not negative; raises ForeignAnswerError."""
    value = the_only(outputs, name)
    if not isinstance(value, np.integer) or value < 0:
        raise ForeignAnswerError(f"the foreign model's {name!r} is no count")
    return int(value)

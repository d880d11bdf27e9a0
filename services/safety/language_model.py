"""The seam of generative guards: a causal language model that answers a prompt and scores what it could have said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.inference.contract import Prompt
from services.runtime.usage import Usage
from services.safety.judgement import NO_USAGE


@dataclass(frozen=True, slots=True)
class GeneratedAnswer:
    """A greedy answer.

    Attributes:
        text: without the prompt and without the stop text.
        is_complete: the model ended it, or a stop text did; false where the limit of tokens cut it off.
        prompt_tokens: of the prompt; None where nobody counted.
        answer_tokens: of the answer; fewer than were allowed, where it is not complete, if the context ended it.
        usage: what it cost.
    """

    text: str
    is_complete: bool
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    usage: Usage = NO_USAGE

    def lacks_room(self, max_tokens: int) -> bool:
        """Return whether the context had no room for an answer of so many tokens, and that cut it off."""
        return not self.is_complete and self.answer_tokens is not None and self.answer_tokens < max_tokens


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """The natural-log likelihood of each continuation that was asked about, and what finding them cost."""

    values: tuple[float, ...]
    usage: Usage = NO_USAGE


class LanguageModel(Protocol):
    """A causal language model behind an inference server."""

    async def is_ready(self) -> bool:
        """Return whether it takes requests; if it does not, see to it that it soon does. Never raises."""

    async def answer(
        self,
        prompt: Prompt,
        *,
        max_tokens: int,
        stop: tuple[str, ...],
        keep_special_tokens: bool,
        timeout_seconds: float,
    ) -> GeneratedAnswer:
        """Return the greedy answer to a prompt; a prompt that does not fit whole is an error.

        Raises:
            FleetError: there is no answer.
        """

    async def log_likelihoods(
        self, prompt: Prompt, continuations: Sequence[str], *, timeout_seconds: float
    ) -> Likelihoods:
        """Return the natural-log likelihood of each continuation of a prompt.

        Raises:
            FleetError: there is no answer.
        """

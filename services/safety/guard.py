"""The seams of the safety service: a guard judges turns, a classifier gives probabilities of labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.runtime.usage import Usage
from services.safety.judgement import NO_USAGE, GuardDescription, JudgedTurn, Verdict


class Guard(Protocol):
    """A model that judges turns."""

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""

    async def is_ready(self) -> bool:
        """Return whether it can judge now; never raises for a model or a server that is away."""

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Judge turns within the current call's deadline, one verdict each, in their order.

        What the guard answered but cannot be used becomes an ERROR verdict of the turns concerned.

        Raises:
            FleetError: nothing was judged: the guard is away, overloaded, or the caller's time is used up. What was
                spent all the same is in its metadata, of all turns together: see ``services.runtime.usage``.
        """


@dataclass(frozen=True, slots=True)
class LabelledText:
    """What a classifier says of one text.

    Attributes:
        probabilities: one a label, as the engine gave them; not checked.
        num_tokens: tokens that it read, special ones included.
        truncated: whether the text was longer than what it reads.
        cached: whether the answer was known before.
        later: of a text that is longer than what it reads at once, what it says of the windows after the first, in
            their order; all of them together are the text, but for what ``truncated`` says is left out.
        usage: what this window cost in the inference server, its share of the request; of a known one what it saved.
        unknown_share: the largest share of tokens in any stretch of 32 of this window that stand for what the
            classifier's vocabulary lacks, so that it says nothing of them; 1 where nothing was read.
    """

    probabilities: Sequence[float]
    num_tokens: int
    truncated: bool
    cached: bool = False
    later: tuple["LabelledText", ...] = ()
    usage: Usage = NO_USAGE
    unknown_share: float = 0.0

    @property
    def from_cache(self) -> "LabelledText":
        """The same for whoever shares it: somebody else has paid."""
        return replace(self, usage=self.usage.from_cache, later=tuple(each.from_cache for each in self.later))


class Classifier(Protocol):
    """A sequence classifier behind an inference server."""

    async def is_ready(self) -> bool:
        """Return whether it takes requests; if it does not, see to it that it soon does."""

    async def classify(self, texts: Sequence[str], *, timeout_seconds: float) -> Sequence[LabelledText]:
        """Return one answer a text, in their order, from one request.

        Raises:
            FleetError: there is no answer.
        """

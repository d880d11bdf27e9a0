"""What judging an item cost: scorers that ask models, and guards, also where one of them failed."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from services.evaluation.runs.fatal_errors import is_fatal
from services.evaluation.runs.peers import SafetyVerdict, ScoredOutput, ScorerCall
from services.evaluation.runs.retry import is_transient
from services.runtime.errors import FleetError
from services.runtime.usage import NO_USAGE, usage_of

Score: TypeAlias = Callable[[Sequence[ScorerCall]], Awaitable[Sequence[ScoredOutput | FleetError]]]


class JudgingBill:
    """Gets one output judged, in as many attempts as it takes, and sums up what they cost.

    What one attempt found is not asked about again: a program runs once though a judge beside it was away. Nor is what
    no further attempt would change, such as a judge's garbage.

    Attributes:
        usage: the sum so far.
    """

    def __init__(self) -> None:
        self.usage = NO_USAGE
        self._known: dict[int, ScoredOutput | FleetError] = {}

    async def pay(self, score: Score, calls: Sequence[ScorerCall]) -> list[ScoredOutput | FleetError]:
        """Attempt the calls, the same every time, that have no answer yet; say what each gave or why it gave nothing.

        Raises:
            FleetError: why one gave nothing yet, or that no item could be judged by it.
        """
        wanted = [index for index in range(len(calls)) if index not in self._known]
        outcomes = await score([calls[index] for index in wanted])
        passing: list[FleetError] = []
        for index, outcome in zip(wanted, outcomes, strict=True):
            self.usage += usage_of(outcome) if isinstance(outcome, FleetError) else outcome.usage
            if isinstance(outcome, FleetError) and is_transient(outcome):
                passing.append(outcome)
            else:
                self._known[index] = outcome
        fatal = [each for each in self._known.values() if isinstance(each, FleetError) and is_fatal(each)]
        if fatal or passing:
            raise (fatal or passing)[0]
        return [self._known[index] for index in range(len(calls))]

    def outcomes(self, count: int, instead: FleetError) -> list[ScoredOutput | FleetError]:
        """Return what each of so many calls gave so far, ``instead`` for those without an answer."""
        return [self._known.get(index, instead) for index in range(count)]

    async def pay_guard(self, classify: Callable[[], Awaitable[SafetyVerdict]]) -> SafetyVerdict:
        """Make one attempt to have a turn judged and note its cost; raises what the attempt raises."""
        try:
            verdict = await classify()
        except FleetError as error:
            self.usage += usage_of(error)
            raise
        self.usage += verdict.usage
        return verdict

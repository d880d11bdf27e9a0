"""What scorers cost that ask models, for the item that they judged: also where one of them failed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Final

from services.evaluation.runs.outcome import Usage
from services.evaluation.runs.peers import ScoredOutput
from services.runtime.errors import FleetError

USAGE_PREFIX: Final = "usage_"
"""Before the names of the metadata in which a failed judgement says what it cost: see ``ScoreResponse.usage``."""


class ScoringBill:
    """Sums up what the attempts to judge one output cost.

    Attributes:
        usage: the sum so far.
    """

    def __init__(self) -> None:
        self.usage = Usage()

    async def pay(self, score: Callable[[], Awaitable[Sequence[ScoredOutput]]]) -> Sequence[ScoredOutput]:
        """Make one attempt and note its cost; raises what the attempt raises."""
        try:
            results = await score()
        except FleetError as error:
            self.usage += usage_of(error)
            raise
        for each in results:
            self.usage += each.usage
        return results


def usage_of(error: FleetError) -> Usage:
    """Return what a failed judgement cost, as its error says; what it does not say, or not in numbers, is 0."""
    # One of the fields is a float and the others are ints, which a dictionary's type cannot say; _figure minds it.
    return Usage(**{each.name: _figure(error.metadata, each.name) for each in fields(Usage)})  # type: ignore[arg-type]


def with_usage(error: FleetError, usage: Usage) -> FleetError:
    """Return the error so that ``usage_of`` gives this cost."""
    others = {key: value for key, value in error.metadata.items() if not key.startswith(USAGE_PREFIX)}
    cost = {USAGE_PREFIX + each.name: str(value) for each in fields(usage) if (value := getattr(usage, each.name))}
    error.metadata = {**others, **cost}
    return error


def _figure(metadata: Mapping[str, str], name: str) -> float:
    told = metadata.get(USAGE_PREFIX + name, "0")
    try:
        value = float(told) if name == "engine_seconds" else int(told)
    except ValueError:
        return 0
    return value if 0 <= value < float("inf") else 0

"""Responses that are judged as they grow: when a verdict is due, and how verdicts are told."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from services.runtime.errors import FleetError, InternalError
from services.runtime.item_streams import Outcome
from services.runtime.usage import usage_of
from services.safety.errors import invalid_field
from services.safety.judgement import Decision, Verdict
from services.safety.judging import Assignment

JUDGED_AGAIN: Final = 8
"""The whole text is judged each time. After an eighth more of it, all verdicts together read some nine times the text,
however long it is; after a fixed number of characters, a long text would cost its square."""
# ERROR is left out: it is of one part of a response, and the verdict on more of it covers that part.
_SEVERITY: Final = {Decision.SAFE: 0, Decision.CONTROVERSIAL: 1, Decision.UNSAFE: 2}


@dataclass(frozen=True, slots=True)
class RollingLimits:
    """Bounds on the growing responses of one stream.

    Attributes:
        open_responses: begun and not ended, at once.
        characters: longest response, in code points.
    """

    open_responses: int
    characters: int


@dataclass(frozen=True, slots=True)
class Place:
    """Which verdict on a growing response it is.

    Attributes:
        number: 0 for the first.
        characters: of the response, that it is on.
        is_final: the response is complete, or broken off; nothing comes after this.
    """

    number: int
    characters: int
    is_final: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict that a stream owes.

    Attributes:
        subject: what is judged and by whom, or why nobody can.
        place: which verdict on a growing response; None for a whole turn.
    """

    subject: Assignment | FleetError
    place: Place | None = None


class GrowingResponse:
    """One response that is being generated.

    Args:
        assign: says who judges a response with the given text; raises FleetError if nobody can.
        every_characters: a verdict is due when so many are not judged yet, and at least an eighth of what was.
        longest_characters: a longer response is broken off.
    """

    def __init__(self, assign: Callable[[str], Assignment], *, every_characters: int, longest_characters: int) -> None:
        self._assign = assign
        self._every = every_characters
        self._longest = longest_characters
        self._pieces: list[str] = []
        self._length = 0
        self._judged = 0
        self._verdicts = 0

    def add(self, text: str, *, is_last: bool) -> Judgement | None:
        """Take in more text; return the verdict that is due with it, None if none is.

        Only the verdict on a complete response is final. As long as it is blank, there is nothing to judge.
        """
        self._pieces.append(text)
        self._length += len(text)
        if self._length > self._longest:
            return self.break_off(
                invalid_field(
                    "text", f"makes the response longer than {self._longest} characters", reason="RESPONSE_TOO_LONG"
                )
            )
        if not is_last and self._length - self._judged < max(self._every, self._judged // JUDGED_AGAIN):
            return None
        whole = "".join(self._pieces)
        self._pieces = [whole]
        if not is_last and not whole.strip():
            return None
        try:
            subject: Assignment | FleetError = self._assign(whole)
        except FleetError as error:
            subject = error
        self._judged = self._length
        return self._judgement(subject, is_final=is_last)

    def refuse(self, error: FleetError) -> Judgement:
        """Say what is wrong with a message that is no part of the response, but has its id; the response goes on."""
        return self._judgement(error, is_final=False)

    def break_off(self, error: FleetError) -> Judgement:
        """End the response without a verdict on the whole."""
        return self._judgement(error, is_final=True)

    def _judgement(self, subject: Assignment | FleetError, *, is_final: bool) -> Judgement:
        place = Place(self._verdicts, self._judged, is_final)
        self._verdicts += 1
        return Judgement(subject, place)


class TellingOrder:
    """Holds the verdicts on a growing response back until those before them were told."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._held: dict[tuple[str, int], Outcome[Verdict]] = {}

    def release(self, outcome: Outcome[Verdict]) -> Iterator[Outcome[Verdict]]:
        """Yield what can be told now that this outcome is there."""
        place = place_of(outcome)
        if place is None:
            yield outcome
            return
        item_id = outcome.item_id
        self._held[item_id, place.number] = outcome
        number = self._next.get(item_id, 0)
        while ready := self._held.pop((item_id, number), None):
            number += 1
            self._next[item_id] = number
            ready_place = place_of(ready)
            if ready_place is not None and ready_place.is_final:
                del self._next[item_id]
            yield ready


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of an item.

    Attributes:
        outcome: its result; a verdict is never milder than one told of the same response before.
        current: what the guard says of the response so far, where ``outcome`` repeats a more severe verdict.
    """

    outcome: Outcome[Verdict]
    current: Verdict | None = None


class WorstSoFar:
    """Repeats the most severe verdict on a growing response until its end.

    Text behind a hazard can make the whole look harmless to a guard, but the hazard has been said. So UNSAFE stays,
    and CONTROVERSIAL stays where only SAFE follows. What could not be judged tells nothing of how severe it is; where
    it is the end of a response that was UNSAFE, that is repeated, with the reason beside it.
    """

    def __init__(self) -> None:
        self._worst: dict[str, Verdict] = {}

    def tell(self, outcome: Outcome[Verdict]) -> Told:
        """Return what to tell of an outcome; those of one response must come in their order."""
        place = place_of(outcome)
        if place is None:
            return Told(outcome)
        item_id, verdict = outcome.item_id, outcome.result
        worst = self._worst.pop(item_id, None) if place.is_final else self._worst.get(item_id)
        if isinstance(verdict, BaseException):
            if worst is not None and worst.decision is Decision.UNSAFE and place.is_final:
                return _repeated(outcome, worst, verdict)
            return Told(outcome)
        if worst is not None and _is_milder(verdict, worst):
            # Only once is told what the earlier one cost.
            return Told(replace(outcome, result=replace(worst, usage=verdict.usage)), verdict)
        if not place.is_final and verdict.decision in _SEVERITY:
            self._worst[item_id] = verdict
        return Told(outcome)


def _repeated(outcome: Outcome[Verdict], worst: Verdict, error: BaseException) -> Told:
    """Return the last answer on a response that was found hazardous before something ended it."""
    fleet_error = error if isinstance(error, FleetError) else InternalError("the response could not be judged")
    current = Verdict(
        Decision.ERROR, worst.guard, worst.threshold, error_reason=fleet_error.reason, usage=usage_of(fleet_error)
    )
    return Told(replace(outcome, result=replace(worst, usage=current.usage)), current)


def _is_milder(verdict: Verdict, worst: Verdict) -> bool:
    if verdict.decision not in _SEVERITY:
        return worst.decision is Decision.UNSAFE
    return _SEVERITY[verdict.decision] < _SEVERITY[worst.decision]


def place_of(outcome: Outcome[Verdict]) -> Place | None:
    """Return which verdict on a growing response an outcome is; None if it is the only one of its item."""
    return outcome.request.place if isinstance(outcome.request, Judgement) else None

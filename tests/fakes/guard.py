"""A guard in memory: its verdicts are up to the test."""

from collections.abc import Callable, Sequence
from typing import Any

from services.safety.judgement import Aspect, Decision, GuardDescription, JudgedTurn, Role, Turn, Verdict
from tests.fakes.classifier import description

Judge = Callable[[JudgedTurn], Verdict]


class FakeGuard:
    """Obeys the ``Guard`` protocol.

    By default a text that is a number is its own unsafe probability, and anything else is an ERROR.

    Args:
        name: the guard's id.
        judge: what it says of one turn.
        aspects: what it judges.
    """

    def __init__(
        self,
        name: str = "fake",
        judge: Judge | None = None,
        aspects: tuple[Aspect, ...] = (Aspect.PROMPT, Aspect.RESPONSE),
    ) -> None:
        self._about = description(name, aspects)
        self._judge = judge or self.read
        self.ready = True
        self.failure: Exception | None = None
        self.lost_verdicts = 0
        self.requests: list[list[JudgedTurn]] = []

    @property
    def about(self) -> GuardDescription:
        """What the test made it."""
        return self._about

    async def is_ready(self) -> bool:
        """Return what the test says."""
        return self.ready

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Say what the test says."""
        self.requests.append(list(turns))
        if self.failure is not None:
            raise self.failure
        return [self._judge(turn) for turn in turns][self.lost_verdicts :]

    @property
    def judged(self) -> list[str]:
        """Every text that it was asked about."""
        return [turn.content for request in self.requests for turn in request]

    def read(self, turn: JudgedTurn) -> Verdict:
        """Take a text at its word."""
        try:
            probability = float(turn.content)
        except ValueError:
            return self.verdict(Decision.ERROR)
        threshold = 0.5 if turn.threshold is None else turn.threshold
        decision = Decision.UNSAFE if probability >= threshold else Decision.SAFE
        return self.verdict(decision, probability, threshold)

    def verdict(
        self, decision: Decision, probability: float | None = None, threshold: float | None = 0.5, **changes: Any
    ) -> Verdict:
        """Build a verdict of this guard."""
        reason = "FAKE_FAILURE" if decision is Decision.ERROR else ""
        return Verdict(decision, self._about.reference, threshold, probability, error_reason=reason, **changes)


def prompts(*texts: str, threshold: float | None = None) -> list[JudgedTurn]:
    """Build turns to judge."""
    return [JudgedTurn([Turn(Role.USER, text)], 0, Aspect.PROMPT, threshold) for text in texts]

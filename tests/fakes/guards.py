"""Guards in memory, and the verdicts they give."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from services.safety.judgement import (
    Aspect,
    Decision,
    GuardDescription,
    GuardReference,
    HazardCategory,
    JudgedTurn,
    Verdict,
)

VIOLENCE = HazardCategory("tests", "1", "violence", "Violence", "vcr")
INSULTS = HazardCategory("tests", "1", "insults", "Insults")


class FakeGuard:
    """Obeys the ``Guard`` protocol; ``say`` decides the verdict on a turn, or raises. SAFE by default."""

    def __init__(
        self,
        name: str = "fake",
        say: Callable[[JudgedTurn], Verdict] | None = None,
        *,
        aspects: tuple[Aspect, ...] = (Aspect.PROMPT, Aspect.RESPONSE),
        categories: tuple[HazardCategory, ...] = (VIOLENCE, INSULTS),
    ) -> None:
        reference = GuardReference(f"guards/{name}", "w" * 64, "t" * 64, "c" * 64, "fake", "float32")
        self._about = GuardDescription(reference, "A guard for tests.", aspects, categories, 0.5, None)
        self.say = say or self.safe
        self.requests: list[list[JudgedTurn]] = []

    @property
    def about(self) -> GuardDescription:
        """What it is and can do."""
        return self._about

    async def is_ready(self) -> bool:
        """Return true."""
        return True

    async def judge(self, turns: Sequence[JudgedTurn]) -> list[Verdict]:
        """Return what ``say`` makes of each turn."""
        self.requests.append(list(turns))
        return [replace(self.say(turn), guard=self._about.reference) for turn in turns]

    def safe(self, turn: JudgedTurn) -> Verdict:
        """Judge any turn SAFE."""
        return self.saying(Decision.SAFE)

    def saying(self, decision: Decision, probability: float | None = None) -> Verdict:
        """Return a verdict of this guard."""
        return Verdict(decision, self._about.reference, 0.5, unsafe_probability=probability)

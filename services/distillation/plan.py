"""How many labels a distillation may use, and on what."""

from dataclasses import dataclass
from typing import Final

LEAST_BUDGET: Final = 40


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a distillation.

    Attributes:
        budget: texts that the teacher labels, those to measure on included.
        held_out_share: of the budget, drawn at random to measure on and never trained on.
        first_share: of the labels for training, drawn at random before there is a student.
        rounds: in which the rest is chosen.
        random_share: of each round, drawn at random.
        seed: of everything that is drawn.
    """

    budget: int = 2000
    held_out_share: float = 0.25
    first_share: float = 0.25
    rounds: int = 6
    random_share: float = 0.25
    seed: int = 0

"""What the guard learns of each text: one target a hazard, and one for "hazardous at all"."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from examples.guard_head.corpus import HAZARDS, Example
from services.distillation.tuning import Lesson

UNSAFE: Final = "unsafe"
LABELS: Final = (UNSAFE, *HAZARDS)


def lessons_of(examples: Sequence[Example], drawn: Mapping[str, float]) -> list[Lesson]:
    """Return the lessons of texts.

    Args:
        examples: labelled texts.
        drawn: by source, how often an epoch sees each text on average; 1 for sources that are not named.
    """
    return [Lesson(each.text, targets_of(each), drawn.get(each.source, 1.0)) for each in examples]


def targets_of(example: Example) -> tuple[float, ...]:
    """Return 1, 0 or NaN (nobody judged) for each label."""
    hazards = [
        1.0 if hazard in example.hazards else math.nan if hazard in example.unknown else 0.0 for hazard in HAZARDS
    ]
    return (float(example.is_unsafe), *hazards)

"""Bounds on the texts of scorers whose work grows faster than reading does."""

from collections.abc import Sequence

from services.runtime.errors import FieldViolation
from services.scoring.errors import TextTooLongError

_TEXTS_PER_LIMIT = 10


def require_lengths(scorer: str, text: str, targets: Sequence[str], *, limit: int) -> None:
    """Refuse what takes too long to compare.

    Accepted are a text of at most ``limit`` characters, targets of at most ``limit`` characters together, and a text
    whose length times the number of targets is at most ten times the limit, since it is compared with each.

    Raises:
        TextTooLongError: names what is too long.
    """
    sizes = {
        "text": (len(text), limit),
        "targets": (sum(map(len, targets)), limit),
        "text, once for each target,": (len(text) * len(targets), _TEXTS_PER_LIMIT * limit),
    }
    too_long = {name: (size, most) for name, (size, most) in sizes.items() if size > most}
    if too_long:
        listed = "; ".join(
            f"{name} has {size} characters (the limit is {most})" for name, (size, most) in too_long.items()
        )
        raise TextTooLongError(
            f"{scorer} cannot compare texts as long as these: {listed}",
            metadata={"scorer": scorer, "limit_characters": str(limit)},
            field_violations=(FieldViolation("targets" if "targets" in too_long else "text", listed),),
        )

"""Bounds on the texts of scorers that do more with them than read them once."""

from collections.abc import Mapping, Sequence

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


def require_total_length(scorer: str, sizes: Mapping[str, int], *, limit: int) -> None:
    """Refuse texts that have more characters together than a scorer takes.

    Args:
        scorer: its name.
        sizes: how many characters each field of the request has.
        limit: most characters of all together.

    Raises:
        TextTooLongError: names the longest.
    """
    total = sum(sizes.values())
    if total <= limit:
        return
    longest = max(sizes, key=sizes.__getitem__)
    raise TextTooLongError(
        f"{scorer} cannot judge texts as long as these: together they have {total} characters (the limit is {limit}), "
        f"of which {longest} has {sizes[longest]}",
        metadata={"scorer": scorer, "limit_characters": str(limit)},
        field_violations=(FieldViolation(longest, f"has {sizes[longest]} of {total} characters"),),
    )

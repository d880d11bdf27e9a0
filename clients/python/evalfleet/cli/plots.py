"""Small plots of text, for a column of a table."""

from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_GAP = "·"


def difference_bar(
    lower: float, value: float, upper: float, *, reach: float, margin: float | None = None, width: int = 31
) -> str:
    """Draw an interval on a scale from −reach to +reach: ``    ├──●─┼┤   ``.

    ``┼`` or ``│`` is no difference, ``┊`` the margin, ``◂`` and ``▸`` say that the interval goes on.

    Args:
        lower: lower end of the interval.
        value: the difference.
        upper: upper end of the interval.
        reach: end of the scale, above 0.
        margin: where −margin is marked.
        width: characters, an odd number.
    """
    half = width // 2

    def place(at: float) -> int:
        return half + round(max(-1.0, min(1.0, at / reach)) * half)

    cells = [" "] * width
    first, last = place(lower), place(upper)
    cells[first : last + 1] = "─" * (last - first + 1)
    cells[first], cells[last] = "├", "┤"
    if lower < -reach:
        cells[first] = "◂"
    if upper > reach:
        cells[last] = "▸"
    if margin is not None and margin <= reach:
        cells[place(-margin)] = "┊"
    cells[half] = "┼" if first < half < last else "│"
    cells[place(value)] = "●"
    return "".join(cells)


def interval_bar(lower: float, value: float, upper: float, *, least: float, most: float, width: int = 31) -> str:
    """Draw an interval on a scale from ``least`` to ``most``, which hold it: ``    ├──●─┤   ``."""
    span = (most - least) or 1.0

    def place(at: float) -> int:
        return round((max(least, min(most, at)) - least) / span * (width - 1))

    cells = [" "] * width
    first, last = place(lower), place(upper)
    cells[first : last + 1] = "─" * (last - first + 1)
    cells[first], cells[last] = "├", "┤"
    cells[place(value)] = "●"
    return "".join(cells)


def sparkline(values: Sequence[float | None], *, width: int = 60) -> str:
    """Draw values as bars between their least and their largest; a dot for none.

    Args:
        values: in order; more than ``width`` are thinned out, the last one stays.
        width: most characters.
    """
    step = -(-len(values) // width) or 1
    shown = values[::-1][::step][::-1]
    known = [each for each in shown if each is not None]
    lowest, highest = min(known, default=0.0), max(known, default=0.0)
    span = (highest - lowest) or 1.0
    return "".join(
        _GAP if each is None else _BLOCKS[min(len(_BLOCKS) - 1, int((each - lowest) / span * len(_BLOCKS)))]
        for each in shown
    )

"""An interval on a line, small enough for a cell of a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalfleet.pages.markup import Markup, joined, tag
from evalfleet.pages.numbers import number
from evalfleet.pages.scales import Scale, ticks_of

_WIDTH, _HEIGHT, _MIDDLE, _EDGE = 240, 26, 13, 7


@dataclass(frozen=True, slots=True)
class Mark:
    """A value that an interval is held against, such as a gate's bound: a dashed line with a word."""

    value: float
    label: str


def interval_plot(
    value: float | None,
    limits: tuple[float, float] | None,
    bounds: tuple[float, float],
    *,
    description: str,
    marks: Sequence[Mark] = (),
    kind: str = "",
) -> Markup:
    """Draw a value with its interval between ``bounds``; empty where there is neither.

    Args:
        value: the estimate.
        limits: its interval; arrows say that it goes on beyond the bounds.
        bounds: ends of the line, the same for all rows of a table.
        description: the text in its stead.
        marks: what it is held against.
        kind: ``second`` for what belongs to the row above.
    """
    if value is None and limits is None:
        return Markup()
    scale = Scale(*bounds, _EDGE, _WIDTH - _EDGE)
    parts = [tag("title", description), *_ground(scale)]
    for mark in marks:
        parts.append(_line(scale.place(mark.value), 1, scale.place(mark.value), _HEIGHT - 1, "mark"))
    if limits is not None:
        parts += _whiskers(scale, limits)
    if value is not None:
        parts.append(tag("circle", cx=scale.place(value), cy=_MIDDLE, r=4.5, class_="dot"))
    return tag(
        "svg",
        *parts,
        viewbox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_=f"interval {kind}".strip(),
        focusable="false",
    )


def axis(bounds: tuple[float, float]) -> Markup:
    """Draw the line's numbers, to stand above the plots of a table."""
    scale = Scale(*bounds, _EDGE, _WIDTH - _EDGE)
    ticks = ticks_of(*bounds)
    texts = [
        tag("text", f"{tick:g}".replace("-", "−"), x=scale.place(tick), y=11, text_anchor=_anchor(scale.place(tick)))
        for tick in ticks
    ]
    return tag("svg", *texts, viewbox=f"0 0 {_WIDTH} 14", class_="axis", aria_hidden="true")


def description(what: str, value: float | None, limits: tuple[float, float] | None) -> str:
    """Say in words what an interval's drawing shows."""
    if limits is None:
        return f"{what}: {number(value)}"
    return f"{what}: {number(value)}, interval from {number(limits[0])} to {number(limits[1])}"


def _anchor(place: float) -> str:
    """A number at an end stays inside."""
    return "start" if place < _EDGE + 5 else "end" if place > _WIDTH - _EDGE - 5 else "middle"


def _ground(scale: Scale) -> list[Markup]:
    lines = [
        _line(scale.place(tick), 3, scale.place(tick), _HEIGHT - 3, "tick")
        for tick in ticks_of(scale.least, scale.most)
    ]
    return [*lines, _line(_EDGE, _MIDDLE, _WIDTH - _EDGE, _MIDDLE, "base")]


def _whiskers(scale: Scale, limits: tuple[float, float]) -> list[Markup]:
    left, right = (scale.place(each) for each in limits)
    parts = [_line(left, _MIDDLE, right, _MIDDLE, "whisker")]
    for at, limit, towards in ((left, limits[0], -1), (right, limits[1], 1)):
        if scale.holds(limit):
            parts.append(_line(at, _MIDDLE - 5, at, _MIDDLE + 5, "whisker end"))
        else:
            points = f"{at + 5 * towards},{_MIDDLE} {at - towards},{_MIDDLE - 5} {at - towards},{_MIDDLE + 5}"
            parts.append(tag("polygon", points=points, class_="beyond"))
    return parts


def _line(left: float, top: float, right: float, bottom: float, class_: str) -> Markup:
    return joined(tag("line", x1=left, y1=top, x2=right, y2=bottom, class_=class_))

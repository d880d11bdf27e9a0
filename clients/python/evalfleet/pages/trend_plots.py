"""One metric over checkpoints: a line with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalfleet.pages.markup import Markup, tag
from evalfleet.pages.numbers import number, span
from evalfleet.pages.scales import Scale, close_bounds, ticks_of

_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34
_CHARACTER = 6.2
"""Width of a character of the labels, about, in the drawing's units."""


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint: its place along the training, its name, and the value with its interval, where it has one."""

    at: float
    label: str
    value: float | None
    limits: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound that the values are held against, with the words that stand at its line."""

    value: float
    label: str


def trend_plot(title: str, points: Sequence[Point], thresholds: Sequence[Threshold] = ()) -> Markup:
    """Draw values in the order of training; the band between the whiskers is the interval.

    Args:
        title: what is drawn, for those who do not see it.
        points: at least two, in order.
        thresholds: dashed lines.
    """
    known = [each for each in points if each.value is not None]
    reach = [each.value or 0.0 for each in known] + [end for each in known if each.limits for end in each.limits]
    y = Scale(*close_bounds([*reach, *(each.value for each in thresholds)]), _HEIGHT - _BOTTOM, _TOP)
    x = Scale(points[0].at, points[-1].at, _LEFT + 10, _WIDTH - _RIGHT - 10)
    said = "; ".join(_said(each) for each in points)
    return tag(
        "svg",
        tag("title", f"{title}. {said}"),
        *_axes(x, y, points),
        *(_threshold(each, y) for each in thresholds),
        *_band(x, y, known),
        tag("polyline", points=" ".join(f"{x.place(p.at)},{y.place(p.value or 0.0)}" for p in known), class_="trend"),
        *(_dot(x, y, each) for each in known),
        viewbox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="trend-plot",
        focusable="false",
    )


def _said(point: Point) -> str:
    limits = f" ({span(*point.limits)})" if point.limits else ""
    return f"{point.label}: {number(point.value)}{limits}"


def _axes(x: Scale, y: Scale, points: Sequence[Point]) -> list[Markup]:
    parts = []
    for tick in ticks_of(y.least, y.most):
        at = y.place(tick)
        parts.append(tag("line", x1=_LEFT, y1=at, x2=_WIDTH - _RIGHT, y2=at, class_="tick"))
        parts.append(tag("text", f"{tick:g}", x=_LEFT - 6, y=at + 4, text_anchor="end"))
    taken = -1.0
    # The last one is the one that people look for: it is placed first, the others where there is room.
    last = points[-1]
    last_start = x.place(last.at) - len(last.label) * _CHARACTER
    for point in points:
        width = len(point.label) * _CHARACTER
        at = x.place(point.at)
        is_last = point is last
        start = last_start if is_last else max(_LEFT - 10.0, at - width / 2)
        if not is_last and (start < taken or start + width > last_start - 6):
            continue
        taken = start + width + 8
        parts.append(tag("text", point.label, x=round(start, 1), y=_HEIGHT - 12, class_="checkpoint"))
    return parts


def _threshold(threshold: Threshold, y: Scale) -> Markup:
    at = y.place(threshold.value)
    return tag(
        "g",
        tag("line", x1=_LEFT, y1=at, x2=_WIDTH - _RIGHT, y2=at, class_="mark"),
        tag("text", threshold.label, x=_WIDTH - _RIGHT, y=at - 4, text_anchor="end", class_="mark-label"),
    )


def _band(x: Scale, y: Scale, points: Sequence[Point]) -> list[Markup]:
    limited = [(each, each.limits) for each in points if each.limits]
    upper = [f"{x.place(each.at)},{y.place(limits[1])}" for each, limits in limited]
    lower = [f"{x.place(each.at)},{y.place(limits[0])}" for each, limits in reversed(limited)]
    band = [tag("polygon", points=" ".join(upper + lower), class_="band")] if len(limited) > 1 else []
    whiskers = [
        tag("line", x1=x.place(p.at), y1=y.place(low), x2=x.place(p.at), y2=y.place(high), class_="whisker")
        for p, (low, high) in limited
    ]
    return band + whiskers


def _dot(x: Scale, y: Scale, point: Point) -> Markup:
    return tag(
        "circle", tag("title", _said(point)), cx=x.place(point.at), cy=y.place(point.value or 0.0), r=4, class_="dot"
    )

"""A whole and its parts as one bar, with a legend that says them in numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalfleet.pages.markup import Markup, tag
from evalfleet.pages.numbers import count, share

_WIDTH, _HEIGHT = 720, 26


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole; ``kind`` is its class in the style sheet: ``part-a`` to ``part-d``."""

    label: str
    amount: int
    kind: str


def share_bar(title: str, parts: Sequence[Part]) -> Markup:
    """Draw the parts behind each other; colours differ in lightness, too, and the legend names each."""
    whole = sum(each.amount for each in parts)
    if not whole:
        return Markup()
    bars, start = [], 0.0
    for part in parts:
        width = part.amount / whole * _WIDTH
        if width:
            ends = {"x": round(start, 2), "width": round(width, 2)}
            bars.append(tag("rect", y=0, height=_HEIGHT, class_=part.kind, **ends))
        start += width
    said = "; ".join(f"{each.label}: {count(each.amount)} ({share(each.amount, whole)})" for each in parts)
    drawing = tag(
        "svg",
        tag("title", f"{title}. {said}"),
        *bars,
        viewbox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        class_="share-bar",
        focusable="false",
    )
    legend = tag(
        "ul",
        *(
            tag(
                "li",
                tag("span", class_=f"swatch {each.kind}", aria_hidden="true"),
                each.label,
                " ",
                tag("b", count(each.amount)),
                f" ({share(each.amount, whole)})",
            )
            for each in parts
        ),
        class_="legend",
    )
    return tag("figure", drawing, tag("figcaption", legend), class_="shares")

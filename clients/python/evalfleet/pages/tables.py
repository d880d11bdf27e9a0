"""Tables that become cards on a narrow screen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from evalfleet.pages.markup import Attribute, Child, Markup, joined, tag


@dataclass(frozen=True, slots=True)
class Row:
    """One row; its attributes, such as ``data_value``, are for programs that read the page."""

    cells: Sequence[Child]
    attributes: dict[str, Attribute] = field(default_factory=dict)
    is_strong: bool = False


def table(
    caption: Child, headers: Sequence[str], rows: Iterable[Row], *, plot_header: Markup | None = None, class_: str = ""
) -> Markup:
    """Lay out rows; the first cell names its row. On a narrow screen each is a card whose cells say their header.

    Args:
        caption: stands above; ``None`` for none.
        headers: one that begins with ``>`` is right-aligned, and one that is ``plot`` has a drawing in its cells.
        rows: as many cells each as there are headers.
        plot_header: stands above the drawings, such as their axis.
        class_: of the table, for the style sheet.
    """
    names = [each.removeprefix(">") for each in headers]
    kinds = ["plot" if each == "plot" else "number" if each.startswith(">") else None for each in headers]
    head = tag(
        "tr",
        *(
            tag("th", plot_header if name == "plot" else name, scope="col", class_=kind)
            for name, kind in zip(names, kinds, strict=True)
        ),
    )
    body = [
        tag(
            "tr",
            *(
                _cell(index, cell, name, kind)
                for index, (cell, name, kind) in enumerate(zip(row.cells, names, kinds, strict=True))
            ),
            **{"class_": "strong" if row.is_strong else None, **row.attributes},
        )
        for row in rows
    ]
    return tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", head),
        tag("tbody", *body),
        class_=class_ or None,
    )


def _cell(index: int, cell: Child, header: str, kind: str | None) -> Markup:
    if index == 0:
        return tag("th", cell, scope="row")
    label = None if header == "plot" else header
    # One child, whatever the cell is made of: on a narrow screen it stands opposite to its header.
    content = tag("span", cell) if label else cell
    classes = [kind, "empty" if cell in (None, "") else None]
    return tag("td", content, class_=" ".join(filter(None, classes)) or None, data_label=label)


def folded(summary: Child, *content: Child, is_open: bool = False, class_: str = "") -> Markup:
    """Fold content away behind a line that says what it is."""
    return tag("details", tag("summary", summary), joined(*content), open=is_open, class_=class_ or None)


def badge(text: str, kind: str) -> Markup:
    """Mark a word; ``kind`` is ``good``, ``bad``, ``open`` or ``quiet``, told by a sign as well as by its colour."""
    signs = {"good": "✓", "bad": "✕", "open": "?", "quiet": ""}
    sign = tag("span", signs[kind], aria_hidden="true", class_="sign") if signs[kind] else None
    return tag("span", sign, text, class_=f"badge {kind}")

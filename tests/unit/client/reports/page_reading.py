"""Reads a page as a browser would, as far as tests of it need."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


@dataclass
class Element:
    """An element: its name, attributes, and the text in it and in what it holds."""

    name: str
    attributes: dict[str, str]
    parents: list["Element"]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class Page(HTMLParser):
    """All elements of a page, in order; one that is not closed, or closed twice, fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open, [each.name for each in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open[-1].name == tag
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for each in self._open:
            each.texts.append(data)

    def find(self, name: str = "", /, **attributes: str) -> list[Element]:
        """Find elements by name and attributes; ``data_run`` means data-run, ``class_`` one of its classes."""
        return [each for each in self.elements if name in ("", each.name) and _fits(each, attributes)]

    def section(self, key: str) -> Element:
        """Return a section."""
        [found] = self.find("section", id=key)
        return found


def _fits(element: Element, attributes: dict[str, str]) -> bool:
    for key, value in attributes.items():
        found = element.attributes.get(key.rstrip("_").replace("_", "-"))
        if found is None or (value not in found.split() if key == "class_" else found != value):
            return False
    return True

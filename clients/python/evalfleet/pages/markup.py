"""HTML that escapes whatever is not marked as HTML, and shows what hostile texts hide."""

import html
import re
import unicodedata
from typing import Final

_VOID: Final = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})
# What a terminal or a browser would obey instead of show: C0 and C1 controls but tab and newline, marks that change the
# direction of text, invisible separators, lone surrogates, tags and the characters that no protocol gives a meaning.
_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufffe\uffff\U000e0000-\U000e007f]"
)


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


Child = str | int | None
Attribute = str | int | float | bool | None


def escaped(text: Child) -> Markup:
    """Return a text as HTML that shows it; what is HTML already stays as it is."""
    if text is None:
        return Markup()
    return text if isinstance(text, Markup) else Markup(html.escape(str(text)))


def joined(*children: Child) -> Markup:
    """Put pieces behind each other."""
    return Markup("".join(map(escaped, children)))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """Make an element; ``class_`` means class, ``data_run`` data-run; ``None`` and ``False`` leave an attribute out."""
    shown = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{joined(*children)}</{name}>")


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    # View boxes and the like are written in mixed case; HTML parsers mend it, XML readers of a saved plot do not.
    name = {"viewbox": "viewBox"}.get(name, name)
    return f' {name}="{html.escape(plain(str(value)))}"'


def plain(text: str) -> str:
    """Take out what hides in a text, for places that can show nothing in its stead."""
    return _HIDDEN.sub("\ufffd", text)


def shown_text(text: str) -> Markup:
    """Return a text as HTML with its hidden characters shown: a mark that turns text round is named, not obeyed."""
    pieces: list[Markup] = []
    start = 0
    for found in _HIDDEN.finditer(text):
        pieces += [escaped(text[start : found.start()]), _named(found[0])]
        start = found.end()
    return joined(*pieces, escaped(text[start:]))


def _named(character: str) -> Markup:
    code = f"U+{ord(character):04X}"
    return tag("span", code, class_="hidden-character", title=unicodedata.name(character, "control character").lower())


def text_block(text: str, *, label: str, class_: str = "") -> Markup:
    """Show a text of somebody else as it is: its lines, its direction kept to itself, its hidden characters by name."""
    return tag(
        "pre", shown_text(text), dir="auto", tabindex=0, role="group", aria_label=label, class_=f"text {class_}".strip()
    )

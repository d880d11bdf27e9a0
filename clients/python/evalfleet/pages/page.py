"""A whole page: one file that needs nothing else, and runs no script but its own."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from evalfleet.pages.markup import Child, Markup, joined, plain, tag


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: ``key`` is its anchor, ``note`` stands beneath its title."""

    key: str
    title: str
    content: Markup
    note: Child = None


def page(title: str, header: Markup, sections: Sequence[Section], *, footer: Child = None) -> str:
    """Put a page together.

    Style and script are inside, and a content security policy allows this one script by its digest and nothing from
    elsewhere: a text that got through as HTML could still neither run nor fetch anything.
    """
    style, script = page_style(), page_script()
    links = [tag("a", each.title, href=f"#{each.key}") for each in sections]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script_digest(script))),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", plain(title)),
        tag("style", style),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header", header, class_="masthead"),
        tag("nav", *links, aria_label="Sections"),
        tag("main", *map(section_markup, sections), id="content", tabindex=-1),
        tag("footer", footer) if footer else None,
        tag("script", script),
    )
    return "<!doctype html>\n" + tag("html", head, "\n", body, lang="en") + "\n"


def section_markup(section: Section) -> Markup:
    """Lay out one section."""
    return joined(
        tag(
            "section",
            tag("h2", section.title, id=f"{section.key}-title"),
            tag("p", section.note, class_="note") if section.note else None,
            section.content,
            id=section.key,
            aria_labelledby=f"{section.key}-title",
        ),
        "\n",
    )


def page_style() -> Markup:
    """The style sheet of all pages."""
    return Markup(_resource("page.css"))


def page_script() -> Markup:
    """The script that filters and walks through items."""
    return Markup(_resource("page.js"))


def script_digest(script: str) -> str:
    """Return the name by which a content security policy allows a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _policy(digest: str) -> str:
    rules = ("default-src 'none'", f"script-src {digest}", "style-src 'unsafe-inline'", "base-uri 'none'")
    return "; ".join((*rules, "form-action 'none'"))


def _resource(name: str) -> str:
    return (resources.files("evalfleet.pages") / name).read_text(encoding="utf-8")

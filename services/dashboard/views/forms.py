"""Forms that choose what a page shows; they work without scripts."""

from collections.abc import Iterable

from evalfleet.pages.markup import Markup, tag


def choice_form(path: str, *fields: Markup, button: str = "Show") -> Markup:
    """Make a form that asks for a page again."""
    return tag("form", *fields, tag("button", button, type="submit"), action=path, method="get", class_="choice")


def select(label: str, name: str, values: Iterable[str], chosen: str = "", *, none: str = "") -> Markup:
    """Make a list to choose from; ``none`` names the entry that chooses nothing."""
    options = [tag("option", none, value="")] if none else []
    options += [tag("option", each, value=each, selected=each == chosen) for each in values]
    return tag("label", label, tag("select", *options, name=name))

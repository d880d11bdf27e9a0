"""HTML that escapes."""

import pytest
from evalfleet.pages.markup import Markup, joined, shown_text, tag, text_block
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.reports.page_reading import Page

WILD = st.text(st.characters(exclude_characters="\r"), max_size=40) | st.sampled_from(
    ["</pre>", "<!--", "-->", "]]>", "<script>", "&lt;", '" onload="x', "\u202eabc", "\x00", "\ud800"]
)


def test_texts_and_attributes_are_escaped_and_html_is_not() -> None:
    made = tag(
        "p", "a<b&c", Markup("<b>x</b>"), None, 3, class_='x" y', data_run="<r>", hidden=True, open=False, id=None
    )
    assert made == '<p class="x&quot; y" data-run="&lt;r&gt;" hidden>a&lt;b&amp;c<b>x</b>3</p>'
    assert tag("input", type="search") == '<input type="search">'
    assert joined("<", Markup("<br>")) == "&lt;<br>"


@given(WILD)
def test_whatever_a_text_holds_it_stays_one_text(text: str) -> None:
    page = Page(tag("div", text_block(text, label="Output")))
    assert [each.name for each in page.elements if each.name not in ("span",)] == ["div", "pre"]
    assert all(
        each.attributes == {"class": "hidden-character", "title": each.attributes["title"]}
        for each in page.find("span")
    )


@given(WILD)
def test_an_attribute_stays_one_attribute(text: str) -> None:
    [element] = Page(tag("p", "", data_item=text)).elements
    assert list(element.attributes) == ["data-item"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\u202egnp.exe", "U+202E"),
        ("\u2066x\u2069", "U+2066"),
        ("zero\u200bwidth", "U+200B"),
        ("\x1b[31mred", "U+001B"),
        ("\ufeffmark", "U+FEFF"),
        ("tag\U000e0041", "U+E0041"),
    ],
)
def test_hidden_characters_are_named(text: str, shown: str) -> None:
    assert shown in shown_text(text)
    if shown.startswith("U+"):
        assert chr(int(shown[2:], 16)) not in shown_text(text)

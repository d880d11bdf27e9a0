"""Pages cover a list exactly, whatever happens between them, and foreign tokens are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import InvalidArgumentError
from services.runtime.pagination import Page, checked_page_size, decode_page_token, encode_page_token, paginate


def page_of(names: list[str], size: int, token: str, scope: str = "models") -> Page[str]:
    return paginate(names, key=lambda name: name, page_size=size, page_token=token, scope=scope)


@given(st.sets(st.text(max_size=10), max_size=60), st.integers(1, 20))
def test_pages_cover_everything_once_in_order(names: set[str], size: int) -> None:
    seen: list[str] = []
    token = ""
    while True:
        page = page_of(list(names), size, token)
        seen.extend(page.items)
        token = page.next_page_token
        if not token:
            break
        assert len(page.items) == size
    assert seen == sorted(names)


def test_items_that_come_and_go_between_pages_hide_no_other() -> None:
    first = page_of(["a", "b", "c", "d"], 2, "")
    second = page_of(["a2", "b", "c", "d", "e"], 2, first.next_page_token)
    assert [*first.items, *second.items] == ["a", "b", "c", "d"]


def test_an_exactly_full_last_page_has_no_next() -> None:
    assert page_of(["a", "b"], 2, "").next_page_token == ""


@given(st.text(), st.text(max_size=10), st.text(max_size=10))
def test_a_token_opens_only_in_its_own_scope(cursor: str, scope: str, other: str) -> None:
    token = encode_page_token(cursor, scope=scope)
    assert decode_page_token(token, scope=scope) == cursor
    if other != scope:
        with pytest.raises(InvalidArgumentError, match="page_token"):
            decode_page_token(token, scope=other)


@given(st.text(min_size=1))
def test_made_up_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_page_token(token, scope="models")
    assert caught.value.field_violations[0].field == "page_token"


@given(st.text(max_size=20), st.data())
def test_a_changed_token_is_refused(cursor: str, data: st.DataObject) -> None:
    token = encode_page_token(cursor, scope="models")
    at = data.draw(st.integers(0, len(token) - 2))  # the last character carries bits that base64 ignores
    replacement = data.draw(st.sampled_from([c for c in "ABCxyz059-_" if c != token[at]]))
    with pytest.raises(InvalidArgumentError):
        decode_page_token(token[:at] + replacement + token[at + 1 :], scope="models")


@pytest.mark.parametrize(("requested", "used"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_sizes(requested: int, used: int) -> None:
    assert checked_page_size(requested) == used


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        checked_page_size(-1)
    assert caught.value.reason == "INVALID_PAGE_SIZE"
    assert caught.value.field_violations[0].field == "page_size"

"""A place in a trace is read as W3C's Trace Context says, and what is none blames nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.trace_context import TraceContext, is_sampled, parse_traceparent, valid_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("02", False)])
def test_the_flag_says_whether_it_is_sampled(flags: str, sampled: bool) -> None:
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")
    assert context == TraceContext(TRACE, SPAN, sampled)
    assert is_sampled(context.traceparent) is sampled
    assert parse_traceparent(context.traceparent) == context


def test_a_later_version_may_say_more() -> None:
    assert valid_traceparent(f"01-{TRACE}-{SPAN}-01-and-more") == f"00-{TRACE}-{SPAN}-01"
    assert valid_traceparent(f"01-{TRACE}-{SPAN}-01") == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_none_is_none(text: str) -> None:
    assert parse_traceparent(text) is None
    assert valid_traceparent(text) == ""


@given(st.text(max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert valid_traceparent(text) in ("", text)

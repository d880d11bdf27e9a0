"""Where work stands in a trace, as W3C's Trace Context writes it: ``00-<trace id>-<span id>-<flags>``."""

import re
from typing import Final, NamedTuple

TRACEPARENT_KEY: Final = "traceparent"
"""Metadata key, and the name of the parameter that carries it to Triton."""

_SAMPLED: Final = 1
_TRACEPARENT: Final = re.compile(
    # Version ff is not one; a later version than 00 may have more behind the flags.
    r"(?:00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})"
    r"|(?!00|ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?)"
)
_ZEROS: Final = ("0" * 32, "0" * 16)


class TraceContext(NamedTuple):
    """A place in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        is_sampled: whether its spans are recorded.
    """

    trace_id: str
    span_id: str
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        """As it travels."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


def parse_traceparent(text: str) -> TraceContext | None:
    """Read a traceparent; ``None`` if it is none, which a caller is not blamed for."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (found.group(each) or found.group(each + 3) for each in (1, 2, 3))
    if trace_id == _ZEROS[0] or span_id == _ZEROS[1]:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def valid_traceparent(text: str) -> str:
    """Return a traceparent as we hand it on; empty for one that is none."""
    context = parse_traceparent(text) if text else None
    return "" if context is None else context.traceparent


def is_sampled(traceparent: str) -> bool:
    """Return whether a valid traceparent, as we hand them on, is of a trace that is recorded."""
    return traceparent.endswith("1")

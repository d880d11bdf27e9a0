"""Spans of the work at hand; where no traces are recorded, next to nothing.

The tracer of a process is a context variable that ``tracing_with`` sets around everything, as the call's scope is:
domain code opens spans without being handed anything, and a process without tracing pays one look at the variable.
What travels between processes is the ``traceparent`` of ``services.runtime.calls``.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Final, Literal, Protocol, TypeAlias

from services.runtime.calls import CallScope, current_scope, entered_scope, leave_scope
from services.runtime.error_types import FleetError
from services.runtime.trace_context import is_sampled, valid_traceparent

SpanKind: TypeAlias = Literal["internal", "server", "client"]
AttributeValue: TypeAlias = str | bool | int | float
Attributes: TypeAlias = Mapping[str, AttributeValue]
_NOTHING: Final[Attributes] = MappingProxyType({})


class Span(Protocol):
    """Something that takes time."""

    @property
    def traceparent(self) -> str:
        """Where what happens inside it stands in the trace; empty if that is traced by nobody."""

    @property
    def is_recording(self) -> bool:
        """Whether anybody will see it."""

    def set(self, attributes: Attributes) -> None:
        """Add what is known of it."""

    def fail(self, reason: str) -> None:
        """Say that it failed, and why, in a word of few: no text of prompts or answers belongs into traces."""

    def end(self) -> None:
        """End it now."""


class Tracer(Protocol):
    """Makes spans and sends them where they are kept."""

    def begin(
        self, name: str, kind: SpanKind, *, parent: str, links: Sequence[str] = (), attributes: Attributes
    ) -> Span:
        """Begin a span.

        Args:
            name: one of few.
            kind: of OpenTelemetry's.
            parent: traceparent of what it is a part of; empty: it begins a trace, if its turn comes to be sampled.
            links: traceparents of what it has to do with in other traces.
            attributes: what is known of it.
        """

    def close(self) -> None:
        """Send what is left; blocks for seconds at most."""


class NoSpan:
    """Nothing is recorded here; what is inside belongs to ``traceparent``, or to no trace if that is empty."""

    __slots__ = ("traceparent",)
    is_recording: Final = False

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def set(self, attributes: Attributes) -> None:
        """Forget it."""

    def fail(self, reason: str) -> None:
        """Forget it."""

    def end(self) -> None:
        """Do nothing."""


NO_SPAN: Final[Span] = NoSpan()

_tracer: ContextVar[Tracer | None] = ContextVar("evalfleet_tracer", default=None)
# The traces of all items that share the work at hand, such as one request for several of them.
_sharing: ContextVar[tuple[str, ...]] = ContextVar("evalfleet_sharing_traces", default=())

# Set where a call is let in whose caller has no say in what the fleet records.
_is_own_sampling: ContextVar[bool] = ContextVar("evalfleet_own_sampling", default=False)


def sample_by_own_rate() -> None:
    """Let no traceparent in a message decide what is recorded, until the running task and those it starts have ended.

    Items are then linked to the traces that they name, and belong to that of their call.
    """
    _is_own_sampling.set(True)


@contextmanager
def tracing_with(tracer: Tracer | None) -> Iterator[None]:
    """Record the spans of the ``with`` block, and of all tasks begun in it, with ``tracer``; ``None`` records none."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)


def current_tracer() -> Tracer | None:
    """Return what records spans here."""
    return _tracer.get()


def begin_span(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    *,
    parent: str,
    links: Sequence[str] = (),
    attributes: Attributes = _NOTHING,
) -> Span:
    """Begin a span, unless it would be a part of what is not recorded."""
    if parent and not is_sampled(parent):
        return NoSpan(parent)
    return tracer.begin(name, kind, parent=parent, links=links, attributes=attributes)


class span(AbstractContextManager[Span]):
    """A span for the length of a ``with`` block; log lines and calls made inside belong to it.

    Args:
        name: one of few; what is special to one item goes into the attributes.
        kind: ``client`` around a call to another process, ``server`` around what such a call asked for.
        parent: traceparent, where it is not that of the work at hand.
        begins_trace: it is a part of nothing.
        item_id: of an item, where the work at hand does not have it yet.
        links: traceparents of what it has to do with in other traces.
        attributes: what is known of it.
    """

    __slots__ = ("_attributes", "_begins_trace", "_item_id", "_kind", "_links", "_name", "_parent", "_span", "_token")

    def __init__(
        self,
        name: str,
        kind: SpanKind = "internal",
        *,
        parent: str = "",
        begins_trace: bool = False,
        item_id: str = "",
        links: Sequence[str] = (),
        attributes: Attributes = _NOTHING,
    ) -> None:
        self._name = name
        self._kind: SpanKind = kind
        self._parent = parent
        self._begins_trace = begins_trace
        self._item_id = item_id
        self._links = links
        self._attributes = attributes
        self._span: Span = NO_SPAN
        self._token: Token[CallScope | None] | None = None

    def __enter__(self) -> Span:
        tracer = _tracer.get()
        if tracer is None and not self._parent:
            return NO_SPAN
        if self._parent and _is_own_sampling.get():
            self._links, self._parent = (self._parent,) if is_sampled(self._parent) else (), ""
        scope = current_scope()
        ids = scope.ids
        parent = "" if self._begins_trace else self._parent or ids.traceparent or ""
        if tracer is None:
            # Nothing is recorded here, but what lies behind may record it.
            opened: Span = NoSpan(parent)
        else:
            known = {**ids.attributes(), **self._attributes}
            if self._item_id:
                known["evalfleet.item.id"] = self._item_id
            opened = begin_span(tracer, self._name, self._kind, parent=parent, links=self._links, attributes=known)
        if opened.traceparent != ids.traceparent:
            item_id = self._item_id if opened.is_recording and self._item_id else ids.item_id
            inner = ids._replace(traceparent=opened.traceparent or None, item_id=item_id)
            self._token = entered_scope(CallScope(scope.deadline_seconds, inner))
        self._span = opened
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            leave_scope(self._token)
            self._token = None
        if self._span.is_recording:
            if error is not None:
                self._span.fail(reason_of(error))
            self._span.end()


def reason_of(error: BaseException) -> str:
    """Return what a span says of an error."""
    if isinstance(error, FleetError):
        return error.reason
    return "CANCELLED" if isinstance(error, asyncio.CancelledError) else type(error).__name__


@contextmanager
def item_spans(name: str, items: Iterable[tuple[str, str]]) -> Iterator[None]:
    """Give each item of a shared call a span in its own trace, from the beginning of the ``with`` block to its end.

    They are linked to the span of the call. Requests made inside can be told their traces: see ``carried_traces``.

    Args:
        name: of the spans.
        items: traceparent and id of each, as they came; either may be empty. Where a trace is not recorded, or its
            traceparent is none, there is no span.
    """
    sampled = [(valid, item_id) for told, item_id in items if told and is_sampled(valid := valid_traceparent(told))]
    if not sampled or _is_own_sampling.get():
        yield
        return
    tracer = _tracer.get()
    if tracer is None:
        with sharing_traces(traceparent for traceparent, _ in sampled):
            yield
        return
    ids = current_scope().ids
    links = (ids.traceparent,) if ids.traceparent and is_sampled(ids.traceparent) else ()
    with ExitStack() as stack:
        spans = []
        for traceparent, item_id in sampled:
            attributes = ids._replace(item_id=item_id or ids.item_id).attributes()
            opened = begin_span(tracer, name, "server", parent=traceparent, links=links, attributes=attributes)
            spans.append(stack.enter_context(_ending(opened)))
        stack.enter_context(sharing_traces(each.traceparent for each in spans))
        yield


@contextmanager
def _ending(opened: Span) -> Iterator[Span]:
    try:
        yield opened
    except BaseException as error:
        opened.fail(reason_of(error))
        raise
    finally:
        opened.end()


@contextmanager
def sharing_traces(traceparents: Iterable[str]) -> Iterator[None]:
    """Say whose traces the work inside the ``with`` block belongs to, where it is done for several at once."""
    token = _sharing.set(tuple(traceparents))
    try:
        yield
    finally:
        _sharing.reset(token)


def carried_traces() -> tuple[str, ...]:
    """Return the traceparents, of traces that are recorded, of those for whom the work at hand is done."""
    own = current_scope().ids.traceparent
    shared = _sharing.get()
    if own and is_sampled(own) and own not in shared:
        return (own, *shared)
    return shared

"""What is known about the call being handled: its deadline and the ids that travel with it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, unquote

from services.runtime.trace_context import TRACEPARENT_KEY, valid_traceparent

REQUEST_ID_KEY = "x-request-id"
RUN_ID_KEY = "x-run-id"
ITEM_ID_KEY = "x-item-id"
CALLER_KEY = "evalfleet-caller"

_ID_KEYS = (REQUEST_ID_KEY, RUN_ID_KEY, ITEM_ID_KEY, CALLER_KEY, TRACEPARENT_KEY)


_ATTRIBUTES = ("evalfleet.request.id", "evalfleet.run.id", "evalfleet.item.id", "evalfleet.caller")


class CallIds(NamedTuple):
    """What a call belongs to.

    Attributes:
        request_id: one per call of an outside caller, the same over all hops.
        run_id: the evaluation run that caused the call, if any.
        item_id: the item of that run, if any.
        caller: who is asking, as it called itself; ``callers.current_caller`` checks it.
        traceparent: its place in a trace, if it is traced.
    """

    request_id: str | None = None
    run_id: str | None = None
    item_id: str | None = None
    caller: str | None = None
    traceparent: str | None = None

    def fields(self) -> dict[str, str]:
        """Return the ids that are set, under their names in the log."""
        fields = {name: value for name, value in zip(self._fields, self[:-1], strict=False) if value}
        if self.traceparent:
            _, fields["trace_id"], fields["span_id"], _ = self.traceparent.split("-", 3)
        return fields

    def attributes(self) -> dict[str, str]:
        """Return the ids that are set, under their names in spans."""
        return {name: value for name, value in zip(_ATTRIBUTES, self[:-1], strict=True) if value}


_NO_IDS = CallIds()


class CallScope:
    """The ids and the deadline that calls made from here inherit.

    Attributes:
        deadline_seconds: on the clock of ``time.monotonic``; ``None`` means no deadline.
    """

    __slots__ = ("_ids", "deadline_seconds")

    def __init__(self, deadline_seconds: float | None = None, ids: CallIds | None = _NO_IDS) -> None:
        self.deadline_seconds = deadline_seconds
        self._ids = ids

    @property
    def ids(self) -> CallIds:
        """The ids of the call being handled, or those bound here."""
        return self._ids or _NO_IDS

    def set_caller(self, name: str | None) -> None:
        """Say who is asking, whatever the call's metadata says: somebody who proved it, or nobody yet (``None``)."""
        self._ids = self.ids._replace(caller=name)

    def leave_trace(self) -> str:
        """Belong to no trace, and return the traceparent that the caller sent; empty if it sent none."""
        told = self.ids.traceparent or ""
        self._ids = self.ids._replace(traceparent=None)
        return told


class ReceivedScope(CallScope):
    """The scope of a call that came over the wire; its metadata is read when the ids are first asked for.

    Args:
        metadata: as gRPC gives it.
        new_id: makes the request id of a call that came without one.
    """

    __slots__ = ("_metadata", "_new_id")

    def __init__(self, metadata: "ReceivedMetadata", new_id: "NewId") -> None:
        self.deadline_seconds = None
        self._ids = None
        self._metadata = metadata
        self._new_id = new_id

    @property
    def ids(self) -> CallIds:
        """The ids that the caller sent."""
        if self._ids is None:
            self._ids = _read_ids(self._metadata, self._new_id)
        return self._ids

    def trace_as(self, traceparent: str) -> None:
        """Let what the call does belong to its own span."""
        self._ids = self.ids._replace(traceparent=traceparent)


ReceivedMetadata: TypeAlias = Iterable[tuple[str, str | bytes]]
NewId: TypeAlias = Callable[[], str]

# A context variable follows a call into the tasks it starts, which an argument cannot do.
_scope: ContextVar[CallScope | None] = ContextVar("evalfleet_call_scope", default=None)


def current_scope() -> CallScope:
    """Return the scope of the call being handled, or an empty one outside of calls."""
    return _scope.get() or CallScope()


def enter_scope(scope: CallScope) -> None:
    """Make ``scope`` current until the running task ends: for the server, which owns the task of a call."""
    _scope.set(scope)


def enter_item(item_id: str, seconds: float) -> float:
    """Bind an item's id, and ``seconds`` from now as its deadline, until the running task ends; return the deadline.

    For whoever owns the task of an item: what ``bind_ids`` and ``bind_deadline`` do for a block, at less cost.
    """
    outer = current_scope().ids
    ids = CallIds(outer.request_id, outer.run_id, item_id or outer.item_id, outer.caller, outer.traceparent)
    deadline = time.monotonic() + seconds
    _scope.set(CallScope(deadline, ids))
    return deadline


@contextmanager
def bind_ids(
    *,
    request_id: str | None = None,
    run_id: str | None = None,
    item_id: str | None = None,
    caller: str | None = None,
) -> Iterator[CallScope]:
    """Add ids to every log line and downstream call made inside the ``with`` block; ``None`` keeps what is there."""
    outer = current_scope()
    ids = CallIds(
        request_id or outer.ids.request_id,
        run_id or outer.ids.run_id,
        item_id or outer.ids.item_id,
        caller or outer.ids.caller,
        outer.ids.traceparent,
    )
    with _entered(CallScope(outer.deadline_seconds, ids)) as scope:
        yield scope


@contextmanager
def bind_deadline(seconds: float | None) -> Iterator[CallScope]:
    """Give the ``with`` block ``seconds`` from now, whatever the caller's deadline; ``None`` lifts the deadline.

    Background work that outlives its call (a run started by CreateRun) needs this: tasks inherit the caller's deadline.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with _entered(CallScope(deadline, current_scope().ids)) as scope:
        yield scope


@contextmanager
def _entered(scope: CallScope) -> Iterator[CallScope]:
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


def entered_scope(scope: CallScope) -> Token[CallScope | None]:
    """Make ``scope`` current until ``leave_scope``: for context managers that are classes, which cost less."""
    return _scope.set(scope)


def leave_scope(token: Token[CallScope | None]) -> None:
    """Make current what was so before ``entered_scope``."""
    _scope.reset(token)


@contextmanager
def outside_item() -> Iterator[None]:
    """Belong to no item, and to no trace, inside the ``with`` block: what is begun there is for many."""
    scope = current_scope()
    with _entered(CallScope(scope.deadline_seconds, scope.ids._replace(item_id=None, traceparent=None))):
        yield


def current_traceparent() -> str:
    """Return where the work at hand stands in a trace; empty if it is not traced."""
    return current_scope().ids.traceparent or ""


def leave_item() -> None:
    """Belong to no item, and to no trace, until the running task ends: for work that is done for many."""
    scope = current_scope()
    ids = scope.ids
    if ids.item_id or ids.traceparent:
        _scope.set(CallScope(scope.deadline_seconds, ids._replace(item_id=None, traceparent=None)))


_ID_LIMIT_CHARACTERS = 256


def encode_id(value: str) -> str:
    """Make an id fit for a metadata value, which holds printable ASCII only; what else it has is percent-encoded."""
    value = value[:_ID_LIMIT_CHARACTERS]
    if value.isascii() and value.isprintable() and "%" not in value:
        return value
    return quote(value.encode("utf-8", "replace"), safe="/:@ ")


def decode_id(value: str | bytes) -> str:
    """Undo ``encode_id`` for a received value; never fails, whatever a client sent."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return (unquote(text, errors="replace") if "%" in text else text)[:_ID_LIMIT_CHARACTERS]


def _read_ids(metadata: ReceivedMetadata, new_id: NewId) -> CallIds:
    request_id = run_id = item_id = caller = traceparent = None
    for key, value in metadata:
        if key == REQUEST_ID_KEY:
            request_id = decode_id(value)
        elif key == RUN_ID_KEY:
            run_id = decode_id(value)
        elif key == ITEM_ID_KEY:
            item_id = decode_id(value)
        elif key == CALLER_KEY:
            caller = decode_id(value)
        elif key == TRACEPARENT_KEY:
            traceparent = _read_traceparent(value)
    return CallIds(request_id or new_id(), run_id, item_id, caller, traceparent)


def _read_traceparent(value: str | bytes) -> str | None:
    return valid_traceparent(decode_id(value)) or None


def outgoing_ids() -> tuple[tuple[str, str], ...]:
    """Return the metadata entries that forward the current ids to a downstream service."""
    scope = _scope.get()
    if scope is None:
        return ()
    named = zip(_ID_KEYS, scope.ids, strict=True)
    return tuple((key, encode_id(value)) for key, value in named if value)

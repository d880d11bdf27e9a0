"""What is known about the call being handled: its deadline and the ids that travel with it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple
from urllib.parse import quote, unquote

REQUEST_ID_KEY = "x-request-id"
RUN_ID_KEY = "x-run-id"
ITEM_ID_KEY = "x-item-id"


class CallScope(NamedTuple):
    """The ids and the deadline that calls made from here inherit. A tuple, because every call makes one.

    Attributes:
        deadline_seconds: on the clock of ``time.monotonic``; ``None`` means no deadline.
        request_id: one per call of an outside caller, the same over all hops.
        run_id: the evaluation run that caused the call, if any.
        item_id: the item of that run, if any.
    """

    deadline_seconds: float | None = None
    request_id: str | None = None
    run_id: str | None = None
    item_id: str | None = None

    def ids(self) -> dict[str, str]:
        """Return the ids that are set, under their names in the log."""
        named = {"request_id": self.request_id, "run_id": self.run_id, "item_id": self.item_id}
        return {name: value for name, value in named.items() if value}


_NO_CALL = CallScope()
# A context variable follows a call into the tasks it starts, which an argument cannot do.
_scope: ContextVar[CallScope] = ContextVar("evalfleet_call_scope", default=_NO_CALL)


def current_scope() -> CallScope:
    """Return the scope of the call being handled, or an empty one outside of calls."""
    return _scope.get()


def enter_scope(scope: CallScope) -> None:
    """Make ``scope`` current until the running task ends (for the interceptor, which owns its task)."""
    _scope.set(scope)


@contextmanager
def bind_ids(
    *, request_id: str | None = None, run_id: str | None = None, item_id: str | None = None
) -> Iterator[CallScope]:
    """Add ids to every log line and downstream call made inside the ``with`` block; ``None`` keeps what is there."""
    outer = _scope.get()
    inner = outer._replace(
        request_id=request_id or outer.request_id,
        run_id=run_id or outer.run_id,
        item_id=item_id or outer.item_id,
    )
    with _entered(inner) as scope:
        yield scope


@contextmanager
def bind_deadline(seconds: float | None) -> Iterator[CallScope]:
    """Give the ``with`` block ``seconds`` from now, whatever the caller's deadline; ``None`` lifts the deadline.

    Background work that outlives its call (a run started by CreateRun) needs this: tasks inherit the caller's deadline.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with _entered(_scope.get()._replace(deadline_seconds=deadline)) as scope:
        yield scope


@contextmanager
def _entered(scope: CallScope) -> Iterator[CallScope]:
    token = _scope.set(scope)
    try:
        yield scope
    finally:
        _scope.reset(token)


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


def outgoing_ids() -> tuple[tuple[str, str], ...]:
    """Return the metadata entries that forward the current ids to a downstream service."""
    scope = _scope.get()
    if scope is _NO_CALL:
        return ()
    named = ((REQUEST_ID_KEY, scope.request_id), (RUN_ID_KEY, scope.run_id), (ITEM_ID_KEY, scope.item_id))
    return tuple((key, encode_id(value)) for key, value in named if value)

"""Writes the outcomes of a bulk stream's items as its messages: one each, or several where the caller takes that."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import Message

from services.runtime.item_streams import Outcome
from services.runtime.status import to_status

ResultT = TypeVar("ResultT")

_LARGEST_GROUP_BYTES: Final = 256 * 1024
"""Outcomes that are larger together go apart, so that only an outcome alone can be too large to be sent."""


class OutcomesMessage(Protocol):
    """A response of a bulk stream: ``item_id``, a result or ``status``, and ``more`` of the same."""

    @property
    def more(self) -> Any:
        """Further outcomes."""


MessageT = TypeVar("MessageT", bound=OutcomesMessage)


def outcome_messages(
    outcomes: Iterable[Outcome[ResultT]],
    new_message: Callable[[], MessageT],
    respond: Callable[[ResultT], Message],
    *,
    together: bool,
    field: str = "response",
) -> Iterator[MessageT]:
    """Write what became of some items of a stream.

    Args:
        outcomes: of the items.
        new_message: makes an empty message.
        respond: writes a result; what it raises is the item's status, for its neighbours would pay for it.
        together: the caller takes several outcomes a message.
        field: of the message, that holds a result.
    """
    message: MessageT | None = None
    size = 0
    for outcome in outcomes:
        said, said_in = _said(outcome, respond, field)
        size += said.ByteSize()
        part: Any
        if message is None or not together or size > _LARGEST_GROUP_BYTES:
            if message is not None:
                yield message
            part = message = new_message()
            size = said.ByteSize()
        else:
            part = message.more.add()
        part.item_id = outcome.item_id
        getattr(part, said_in).CopyFrom(said)
    if message is not None:
        yield message


def _said(outcome: Outcome[ResultT], respond: Callable[[ResultT], Message], field: str) -> tuple[Message, str]:
    """Return what became of an item, and the field of its message that holds it."""
    if isinstance(outcome.result, BaseException):
        return to_status(outcome.result), "status"
    try:
        return respond(outcome.result), field
    except Exception as error:  # noqa: BLE001 - a result that no message can hold is a bug of whoever gave it alone
        return to_status(error), "status"

"""Items as they come off a bulk stream; one that cannot be read is an item with an error, not the end of the stream."""

from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, TypeVar, cast

import grpc
from google.protobuf import wrappers_pb2
from google.protobuf.message import DecodeError

from services.runtime.errors import InvalidArgumentError
from services.runtime.item_streams import Item
from services.runtime.malformed import MalformedRequestError

RequestT = TypeVar("RequestT")


class ItemMessage(Protocol):
    """A message of a bulk stream."""

    @property
    def item_id(self) -> str:
        """The caller's own name for the item."""

    @property
    def request(self) -> Any:
        """What is asked."""


async def read_items(
    context: grpc.aio.ServicerContext[Any, Any], check: Callable[[Any], RequestT]
) -> AsyncGenerator[Item[RequestT], None]:
    """Yield the items that the caller sends, until it has no more.

    Args:
        context: of the call. It is read directly: gRPC's own iterator would end at the first malformed message.
        check: turns an item's request into the domain's, or raises InvalidArgumentError, which is that item's outcome.
    """
    while True:
        try:
            message: object = await context.read()
        except MalformedRequestError as error:
            yield Item(item_id_in(error.received), error)
            continue
        if message is grpc.aio.EOF:
            return
        item = cast(ItemMessage, message)
        yield Item(item.item_id, _checked(item.request, check))


def _checked(request: Any, check: Callable[[Any], RequestT]) -> RequestT | InvalidArgumentError:
    try:
        return check(request)
    except InvalidArgumentError as error:
        return error


def item_id_in(received: bytes) -> str:
    """Find the item id, a message's field 1, where the rest is damaged; empty if it is damaged, too."""
    try:
        # The id is field 1, a string, as in this message, which skips over all other fields without looking at them.
        return wrappers_pb2.StringValue.FromString(received).value
    except DecodeError:
        return ""

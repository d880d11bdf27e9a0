"""Items as they come off a bulk stream; one that cannot be read is an item with an error, not the end of the stream."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from google.protobuf.message import DecodeError, Message

from services.runtime.errors import InvalidArgumentError
from services.runtime.item_streams import Item
from services.runtime.malformed import MalformedRequestError
from services.runtime.trace_context import valid_traceparent

RequestT = TypeVar("RequestT")


class ItemMessage(Protocol):
    """A message of a bulk stream."""

    @property
    def item_id(self) -> str:
        """The caller's own name for the item."""

    @property
    def request(self) -> Any:
        """What is asked."""


class GroupedItemMessage(ItemMessage, Protocol):
    """A message that may hold several items: a first one, and more in ``MORE_FIELD``."""

    @property
    def more(self) -> Sequence[ItemMessage]:
        """The further items."""


MORE_FIELD: Final = 3
"""Number of the field ``more`` in most streams' messages."""
ITEM_GROUPS_METADATA: Final = (("evalfleet-item-groups", "1"),)
"""What a service says in its initial metadata if it reads messages of several items."""


class ItemReader(Generic[RequestT]):
    """Reads a stream of ``GroupedItemMessage``.

    Args:
        context: of the call. It is read directly: gRPC's own iterator would end at the first malformed message.
        check: turns an item's request into the domain's, or raises InvalidArgumentError, which is that item's outcome.
        item_type: the message of a further item; the first one has the same fields.

    Attributes:
        has_groups: a message came that held several items, so that its sender takes several outcomes a message.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        check: Callable[[Any], RequestT],
        item_type: type[Message],
    ) -> None:
        self.has_groups = False
        self._context = context
        self._check = check
        self._item_type = item_type

    async def items(self) -> AsyncGenerator[Item[RequestT], None]:
        """Yield the items that the caller sends, until it has no more."""
        while True:
            try:
                message: Any = await self._context.read()
            except MalformedRequestError as error:
                for each in self._salvaged(error):
                    yield each
                continue
            if message is grpc.aio.EOF:
                return
            grouped = cast(GroupedItemMessage, message)
            yield self._item(grouped)
            if grouped.more:
                self.has_groups = True
                for further in grouped.more:
                    yield self._item(further)

    def _item(self, message: ItemMessage) -> Item[RequestT]:
        try:
            traceparent = valid_traceparent(message.request.traceparent)
            return Item(message.item_id, self._check(message.request), traceparent=traceparent)
        except InvalidArgumentError as error:
            return Item(message.item_id, error)

    def _salvaged(self, error: MalformedRequestError) -> Iterator[Item[RequestT]]:
        """Yield the items of a message that is none: those that are damaged have the error, the others stand."""
        for part in (error.received, *further_items(error.received)):
            try:
                item = self._item_type.FromString(part)
            except DecodeError:
                yield Item(item_id_in(part), error)
            else:
                yield self._item(cast(ItemMessage, item))


def item_id_in(received: bytes) -> str:
    """Find the item id, a message's field 1, where the rest is damaged; empty if it is damaged, too."""
    try:
        # The id is field 1, a string, as in this message, which skips over all other fields without looking at them.
        return wrappers_pb2.StringValue.FromString(received).value
    except DecodeError:
        return ""


def further_items(received: bytes, field: int = MORE_FIELD) -> Sequence[bytes]:
    """Part a message's ``more`` into its items, without looking into them; none if the message is damaged itself.

    Args:
        received: the message.
        field: the number of ``more``.
    """
    try:
        further: Sequence[bytes] = _uninterpreted_group(field).FromString(received).more
    except DecodeError:
        return ()
    return further


@cache
def _uninterpreted_group(field_number: int) -> Any:
    """Make the class of a message of which a field is many times bytes, whatever the sender took them for."""
    file = descriptor_pb2.FileDescriptorProto(name="uninterpreted_group.proto", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    file.message_type.add(name="UninterpretedGroup").field.add(
        name="more", number=field_number, type=field.TYPE_BYTES, label=field.LABEL_REPEATED
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("UninterpretedGroup"))

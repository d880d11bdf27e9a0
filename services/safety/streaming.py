"""Reads the messages of StreamClassify, judges what they ask for in shared requests, and tells the verdicts."""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final

import grpc
from evalfleet.safety.v1 import safety_pb2
from google.protobuf.message import DecodeError

from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError, ResourceExhaustedError
from services.runtime.gathering import Gatherer
from services.runtime.item_reading import further_items, item_id_in
from services.runtime.item_streams import Item, ItemIds, ItemStream, StreamLimits
from services.runtime.malformed import MalformedRequestError
from services.runtime.pacing import Pacer
from services.runtime.trace_context import valid_traceparent
from services.runtime.usage import without_usage
from services.runtime.work import WorkMeter
from services.safety.errors import invalid_field
from services.safety.judgement import Verdict
from services.safety.judging import Assignment, judge_all
from services.safety.rolling import GrowingResponse, Judgement, RollingLimits, TellingOrder, Told, WorstSoFar

LARGEST_GATHERED: Final = 128
_LARGEST_GROUP: Final = 64
_PACE_SECONDS: Final = 0.02
_MORE_FIELD: Final = safety_pb2.StreamClassifyRequest.DESCRIPTOR.fields_by_name["more"].number
DEFAULT_EVERY_CHARACTERS: Final = 200
FEWEST_EVERY_CHARACTERS, MOST_EVERY_CHARACTERS = 16, 100_000
# Tells whether a response can be judged as its opening asks for, before there is any text of it.
_ANY_TEXT: Final = "?"

AssignRequest = Callable[[safety_pb2.ClassifyRequest], Assignment]
AssignResponse = Callable[[safety_pb2.ResponseOpening, str], Assignment]


class TurnReader:
    """Turns a stream's messages into the judgements that they ask for.

    Args:
        context: of the call. It is read directly: gRPC's own iterator would end at the first malformed message.
        assign_request: says who judges a whole turn.
        assign_response: says who judges a response with a given text.
        limits: bounds on growing responses.

    Attributes:
        ids: of the stream's items.
        has_groups: a message came that held several items, so that its sender takes several outcomes a message.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        assign_request: AssignRequest,
        assign_response: AssignResponse,
        limits: RollingLimits,
    ) -> None:
        self.ids = ItemIds()
        self.has_groups = False
        self._context = context
        self._assign_request = assign_request
        self._assign_response = assign_response
        self._limits = limits
        self._open: dict[str, GrowingResponse] = {}

    @property
    def has_growing(self) -> bool:
        """Whether a response is judged as it grows: its verdicts wait for nobody."""
        return bool(self._open)

    async def items(self) -> AsyncGenerator[Item[Judgement], None]:
        """Yield what is to be judged, until the caller has no more; responses that did not end, end in an error."""
        while True:
            try:
                message: Any = await self._context.read()
            except MalformedRequestError as error:
                for item in self._salvaged(error):
                    yield item
                continue
            if message is grpc.aio.EOF:
                break
            for item in self._read(message):
                yield item
        for item_id in list(self._open):
            text = "must end with a piece that is the last, or nothing final can be said of the response"
            yield self._broken_off(item_id, invalid_field("last", text, reason="RESPONSE_NOT_ENDED"))

    def _read(self, message: safety_pb2.StreamClassifyRequest) -> Iterator[Item[Judgement]]:
        yield from self._read_part(message, message.WhichOneof("part"))
        self.has_groups = self.has_groups or bool(message.more)
        for each in message.more:
            yield from self._read_part(each, "request" if each.HasField("request") else None)

    def _salvaged(self, error: MalformedRequestError) -> Iterator[Item[Judgement]]:
        """Yield the items of a message that is none: those that are damaged have the error, whole turns stand."""
        for part in (error.received, *further_items(error.received, _MORE_FIELD)):
            try:
                turn = safety_pb2.StreamClassifyItem.FromString(part)
            except DecodeError:
                turn = safety_pb2.StreamClassifyItem(item_id=item_id_in(part))
            if turn.HasField("request"):
                yield from self._read_part(turn, "request")
            elif turn.item_id in self._open:
                # A response with a hole in its text cannot be judged.
                yield self._broken_off(turn.item_id, error)
            else:
                yield Item(turn.item_id, error)

    def _read_part(self, message: Any, part: str | None) -> Iterator[Item[Judgement]]:
        """Yield what an item of a message asks for.

        Args:
            message: a StreamClassifyRequest, or a StreamClassifyItem.
            part: the field that it has; None: none.
        """
        item_id = message.item_id
        try:
            match part:
                case "request":
                    if item_id in self._open and (problem := self.ids.problem_of(item_id)):
                        raise problem
                    traceparent = valid_traceparent(message.request.traceparent)
                    yield Item(item_id, Judgement(self._assign_request(message.request)), traceparent=traceparent)
                case "opening":
                    self._begin(item_id, message.opening)
                case "piece":
                    yield from self._grow(item_id, message.piece)
                case _:
                    raise invalid_field("part", "must be a request, an opening or a piece", reason="PART_MISSING")
        except FleetError as error:
            response = self._open.get(item_id)
            if response is None:
                yield Item(item_id, error)
            else:
                # What is wrong with this message ends nothing: the response goes on.
                yield Item(item_id, response.refuse(error), is_named_here=False)

    def _begin(self, item_id: str, opening: safety_pb2.ResponseOpening) -> None:
        problem = self.ids.problem_of(item_id)
        if problem is not None:
            raise problem
        every = opening.verdict_every_characters or DEFAULT_EVERY_CHARACTERS
        if not FEWEST_EVERY_CHARACTERS <= every <= MOST_EVERY_CHARACTERS:
            text = f"must be from {FEWEST_EVERY_CHARACTERS} to {MOST_EVERY_CHARACTERS}, or 0"
            raise invalid_field("verdict_every_characters", text, reason="VERDICT_INTERVAL_OUT_OF_RANGE")
        if len(self._open) >= self._limits.open_responses:
            raise ResourceExhaustedError(
                f"this stream has {len(self._open)} open responses already; end some, or open another stream",
                reason="TOO_MANY_OPEN_RESPONSES",
                metadata={"limit": str(self._limits.open_responses)},
            )
        self._assign_response(opening, _ANY_TEXT)
        self.ids.open(item_id)
        self._open[item_id] = GrowingResponse(
            lambda text: self._assign_response(opening, text),
            every_characters=every,
            longest_characters=self._limits.characters,
        )

    def _grow(self, item_id: str, piece: safety_pb2.ResponsePiece) -> Iterator[Item[Judgement]]:
        response = self._open.get(item_id)
        if response is None:
            # Pieces may be on their way when a response is refused or broken off: its outcome was told already.
            if self.ids.is_done(item_id):
                return
            raise invalid_field("item_id", "must be that of an open response", reason="RESPONSE_NOT_OPEN")
        judgement = response.add(piece.text, is_last=piece.last)
        if judgement is None:
            return
        assert judgement.place is not None
        if judgement.place.is_final:
            self._end(item_id)
        yield Item(item_id, judgement, is_named_here=False)

    def _broken_off(self, item_id: str, error: FleetError) -> Item[Judgement]:
        judgement = self._open[item_id].break_off(error)
        self._end(item_id)
        return Item(item_id, judgement, is_named_here=False)

    def _end(self, item_id: str) -> None:
        del self._open[item_id]
        self.ids.close(item_id)


async def stream_verdicts(
    reader: TurnReader, limits: StreamLimits, turns: WorkMeter
) -> AsyncGenerator[Sequence[Told], None]:
    """Yield what becomes of all that a reader reads, what is ready together at once; closing it cancels all work.

    What is asked for in the same moment goes to the guards in shared requests.

    Args:
        reader: of the stream.
        limits: bounds on the stream.
        turns: counts those that are being judged.
    """

    async def judge_together(assignments: Sequence[Assignment]) -> Sequence[Verdict | FleetError]:
        # The requests carry many items, so the time left to the one that caused them does not bound them.
        with bind_deadline(limits.item_seconds):
            try:
                return await judge_all(assignments)
            except FleetError as error:
                # What was spent is told once.
                return [error, *[without_usage(error)] * (len(assignments) - 1)]

    gatherer = Gatherer(judge_together, largest=LARGEST_GATHERED)

    async def judge(judgement: Judgement) -> Verdict:
        if isinstance(judgement.subject, FleetError):
            raise judgement.subject
        with turns.running():
            [outcome] = await gatherer.ask([judgement.subject])
        if isinstance(outcome, FleetError):
            raise outcome
        return outcome

    pacer = Pacer(_PACE_SECONDS)

    def delay_seconds() -> float:
        return pacer.delay_seconds() if reader.has_groups and not reader.has_growing else 0.0

    order, worst = TellingOrder(), WorstSoFar()
    try:
        async with aclosing(reader.items()) as items:
            stream = ItemStream(items, judge, limits, reader.ids, name="StreamClassify/item")
            async with aclosing(stream.groups(largest=_LARGEST_GROUP, delay_seconds=delay_seconds)) as groups:
                async for group in groups:
                    pacer.sent(len(group))
                    yield [worst.tell(each) for outcome in group for each in order.release(outcome)]
    finally:
        await gatherer.close()

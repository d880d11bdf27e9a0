"""StreamClassify over real gRPC: whole turns, and responses that are judged as they grow."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from services.runtime.errors import UnavailableError, from_status
from services.runtime.item_streams import StreamLimits
from services.runtime.testing import as_bytes, serve_in_process
from services.runtime.usage import Usage, usage_of, with_usage
from services.safety.catalogue import GuardCatalogue
from services.safety.classifier_guard import ClassifierGuard
from services.safety.guard import LabelledText
from services.safety.judgement import Aspect
from services.safety.policies import Policy, PolicyCatalogue
from services.safety.reading import LabelReader
from services.safety.rolling import RollingLimits
from services.safety.service import hosted
from tests.fakes.classifier import LABELS, FakeClassifier, answer, description, guard_file
from tests.patience import LONGEST_WAIT_SECONDS

STREAM = "/evalfleet.safety.v1.SafetyService/StreamClassify"
SAFE, UNSAFE, ERROR = safety_pb2.DECISION_SAFE, safety_pb2.DECISION_UNSAFE, safety_pb2.DECISION_ERROR
USER, ASSISTANT = common_pb2.ROLE_USER, common_pb2.ROLE_ASSISTANT
Request = safety_pb2.StreamClassifyRequest


class Gated(FakeClassifier):
    """Answers when the test lets it, and counts what is under way."""

    def __init__(self) -> None:
        super().__init__(self._answer_when_open)
        self.open = asyncio.Event()
        self.open.set()
        self.in_flight = self.cancelled = 0
        self.changed = asyncio.Condition()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(LONGEST_WAIT_SECONDS), self.changed:
            await self.changed.wait_for(is_so)

    async def _answer_when_open(self, texts: Sequence[str]) -> Sequence[LabelledText]:
        await self._count(1)
        try:
            await self.open.wait()
            return [answer(0.9 if "bomb" in text else 0.1) for text in texts]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            await asyncio.shield(self._count(-1))

    async def _count(self, step: int) -> None:
        async with self.changed:
            self.in_flight += step
            self.changed.notify_all()


@pytest.fixture
def classifier() -> Gated:
    return Gated()


@pytest.fixture
async def channel(classifier: Gated) -> AsyncIterator[grpc.aio.Channel]:
    reader = LabelReader(LABELS, guard_file())
    guards = GuardCatalogue(
        [
            ClassifierGuard(description(), classifier, reader, timeout_seconds=30),
            ClassifierGuard(description("prompts", (Aspect.PROMPT,)), classifier, reader, timeout_seconds=30),
        ]
    )
    service = hosted(
        guards,
        PolicyCatalogue([Policy(name="policies/soft", threshold=0.95)]),
        stream_limits=StreamLimits(in_flight=8, item_seconds=LONGEST_WAIT_SECONDS),
        rolling_limits=RollingLimits(open_responses=2, characters=400),
    )
    async with serve_in_process(service) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Any:
    return safety_pb2_grpc.SafetyServiceStub(channel)


def turn(text: str, **fields: Any) -> safety_pb2.ClassifyRequest:
    conversation = common_pb2.Conversation(messages=[common_pb2.Message(role=USER, content=text)])
    return safety_pb2.ClassifyRequest(conversation=conversation, aspect=safety_pb2.ASPECT_PROMPT, **fields)


def item(item_id: str, text: str = "hello", **fields: Any) -> Request:
    return Request(item_id=item_id, request=turn(text, **fields))


def opening(item_id: str, **fields: Any) -> Request:
    conversation = common_pb2.Conversation(messages=[common_pb2.Message(role=USER, content="Tell me more.")])
    told: dict[str, Any] = {"conversation": conversation, "verdict_every_characters": 16} | fields
    return Request(item_id=item_id, opening=safety_pb2.ResponseOpening(**told))


def piece(item_id: str, text: str, *, last: bool = False) -> Request:
    return Request(item_id=item_id, piece=safety_pb2.ResponsePiece(text=text, last=last))


async def answers(stub: Any, requests: Iterable[Request]) -> list[safety_pb2.StreamClassifyResponse]:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return [each async for each in stub.StreamClassify(iter(requests))]


def of(item_id: str, told: Iterable[safety_pb2.StreamClassifyResponse]) -> list[safety_pb2.StreamClassifyResponse]:
    return [each for each in told if each.item_id == item_id]


async def test_every_item_has_one_outcome_and_bad_ones_keep_to_themselves(stub: Any) -> None:
    items = [item(str(number), "a bomb" if number % 3 == 0 else "hello") for number in range(60)]
    items += [item("empty", ""), item("", "no id"), item("0", "again"), Request(item_id="nothing")]
    items += [item("nobody", guard="guards/nobody"), item("contradiction", policy="policies/soft", threshold=0.2)]
    told = await answers(stub, items)
    assert Counter(each.item_id for each in told) == Counter(each.item_id for each in items)
    assert all(each.final and not each.judged_characters for each in told)
    decisions = {each.item_id: each.verdict.decision for each in told if each.HasField("verdict")}
    assert decisions == {str(number): UNSAFE if number % 3 == 0 else SAFE for number in range(60)}
    reasons = {each.item_id: from_status(each.status).reason for each in told if each.HasField("status")}
    assert reasons == {
        "empty": "TEXT_EMPTY",
        "": "ITEM_ID_INVALID",
        "0": "ITEM_ID_REUSED",
        "nothing": "PART_MISSING",
        "nobody": "GUARD_NOT_FOUND",
        "contradiction": "POLICY_CONTRADICTED",
    }


async def test_items_share_requests_to_the_guard(stub: Any, classifier: Gated) -> None:
    classifier.open.clear()
    items = [*(item(str(number), str(number)) for number in range(7)), item("bad", "")]
    told = aiter(stub.StreamClassify(iter(items)))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        # The bad item is read last and needs no guard: once its outcome is told, all others wait for the guard.
        assert (await anext(told)).item_id == "bad"
        classifier.open.set()
        assert len([each async for each in told]) == 7
    assert sum(map(len, classifier.requests)) == 7
    # Two requests may be under way before the rest is there; the rest goes in one.
    assert len(classifier.requests) <= 3


async def test_a_message_that_is_no_text_is_that_items_error(channel: grpc.aio.Channel) -> None:
    def damaged(request: Request) -> bytes:
        return request.SerializeToString().replace(b"##", b"\xff\xfe")

    stream = channel.stream_stream(STREAM, as_bytes, safety_pb2.StreamClassifyResponse.FromString)
    sent = [
        damaged(item("turn", "##")),
        opening("grows").SerializeToString(),
        piece("grows", "All is well so far, is it not?").SerializeToString(),
        damaged(piece("grows", "##", last=True)),
        piece("grows", "more", last=True).SerializeToString(),
        b"\xff\xff\xff",
        item("good").SerializeToString(),
    ]
    told = [each async for each in stream(iter(sent))]
    for item_id in ("turn", ""):
        [outcome] = of(item_id, told)
        assert from_status(outcome.status).reason == "MALFORMED_REQUEST"
    assert of("good", told)[0].verdict.decision == SAFE
    # A hole in a response: no final verdict, and what came behind it is not judged.
    first, last = of("grows", told)
    assert (first.verdict.decision, first.final) == (SAFE, False)
    assert (from_status(last.status).reason, last.final) == ("MALFORMED_REQUEST", True)


def together(*items: Request) -> Request:
    """Put whole turns behind the first item of a message."""
    message = Request()
    message.CopyFrom(items[0])
    for each in items[1:]:
        message.more.add(item_id=each.item_id, request=each.request if each.HasField("request") else None)
    return message


def outcomes_in(
    messages: Iterable[safety_pb2.StreamClassifyResponse],
) -> list[safety_pb2.StreamClassifyResponse | safety_pb2.StreamClassifyOutcome]:
    found: list[safety_pb2.StreamClassifyResponse | safety_pb2.StreamClassifyOutcome] = []
    for message in messages:
        found += [message, *message.more]
    return found


async def test_turns_and_verdicts_come_many_a_message_to_whoever_sends_them_so(stub: Any) -> None:
    turns = [item(str(number), "a bomb" if number % 3 == 0 else "hello") for number in range(100)]
    sent = [together(*turns[first : first + 10]) for first in range(0, 100, 10)]
    sent.append(together(item("empty", ""), item("0", "again"), Request(item_id="nothing")))
    call = stub.StreamClassify(iter(sent))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        assert ("evalfleet-item-groups", "1") in tuple(await call.initial_metadata())
        messages = [each async for each in call]
    assert all(each.final and not each.judged_characters for each in messages)
    assert len(messages) < 103
    told = outcomes_in(messages)
    assert len(told) == 103
    decisions = {each.item_id: each.verdict.decision for each in told if each.HasField("verdict")}
    assert decisions == {str(number): UNSAFE if number % 3 == 0 else SAFE for number in range(100)}
    reasons = {each.item_id: from_status(each.status).reason for each in told if each.HasField("status")}
    assert reasons == {"empty": "TEXT_EMPTY", "0": "ITEM_ID_REUSED", "nothing": "PART_MISSING"}


async def test_whoever_sends_one_item_a_message_gets_one_outcome_a_message(stub: Any) -> None:
    messages = await answers(stub, [item(str(number)) for number in range(100)])
    assert Counter(each.item_id for each in messages) == Counter(map(str, range(100)))
    assert not any(each.more for each in messages)


async def test_verdicts_on_growing_responses_keep_messages_of_their_own(stub: Any, classifier: Gated) -> None:
    turns = [item(str(number)) for number in range(20)]
    messages = await answers(
        stub,
        [
            together(*turns[:8]),
            together(opening("r"), *turns[8:12]),
            together(piece("r", "First you take powder, "), *turns[12:16], item("r")),
            piece("r", "then you build the bomb."),
            together(piece("r", "", last=True), *turns[16:]),
        ],
    )
    growing = of("r", messages)
    assert not any(each.more for each in growing)
    *rolling, last = [(each.judged_characters, each.final) for each in growing if each.HasField("verdict")]
    assert rolling == [(23, False), (47, False)]
    assert last == (47, True)
    # A turn under its id is refused, and the response goes on.
    [refused] = [from_status(each.status).reason for each in growing if each.HasField("status")]
    assert refused == "ITEM_ID_REUSED"
    told = [each for each in outcomes_in(messages) if each.item_id != "r"]
    assert Counter(each.item_id for each in told) == Counter(map(str, range(20)))
    assert {each.verdict.decision for each in told} == {SAFE}


async def test_a_damaged_item_of_a_message_is_its_own_error(channel: grpc.aio.Channel) -> None:
    def damaged(request: Request) -> bytes:
        return request.SerializeToString().replace(b"##", b"\xff\xfe")

    sent = [
        damaged(together(item("first"), item("broken", "##"), item("last", "a bomb"))),
        damaged(together(item("broken first", "##"), item("stands"))),
        opening("grows").SerializeToString(),
        # A piece among what is damaged may be lost.
        damaged(together(piece("grows", "All is well so far, is it not?"), item("broken behind", "##"))),
    ]
    stream = channel.stream_stream(STREAM, as_bytes, safety_pb2.StreamClassifyResponse.FromString)
    told = {each.item_id: each for each in outcomes_in([each async for each in stream(iter(sent))])}
    assert len(told) == 7
    for item_id in ("broken", "broken first", "broken behind", "grows"):
        assert from_status(told[item_id].status).reason == "MALFORMED_REQUEST", item_id
    assert {each: told[each].verdict.decision for each in ("first", "last", "stands")} == {
        "first": SAFE,
        "last": UNSAFE,
        "stands": SAFE,
    }


async def test_a_growing_response_is_judged_on_its_way_and_at_its_end(stub: Any, classifier: Gated) -> None:
    told = await answers(
        stub,
        [
            opening("r"),
            piece("r", "First you take "),
            piece("r", "a pipe, "),
            piece("r", "then"),
            piece("r", ", for the bomb, powder."),
            piece("r", "", last=True),
        ],
    )
    assert [(each.verdict.decision, each.final, each.judged_characters) for each in told] == [
        (SAFE, False, 23),
        (UNSAFE, False, 50),
        (UNSAFE, True, 50),
    ]
    whole = "First you take a pipe, then, for the bomb, powder."
    messages = [
        common_pb2.Message(role=USER, content="Tell me more."),
        common_pb2.Message(role=ASSISTANT, content=whole),
    ]
    alone = safety_pb2.ClassifyRequest(
        conversation=common_pb2.Conversation(messages=messages), aspect=safety_pb2.ASPECT_RESPONSE
    )
    assert (await stub.Classify(alone)).verdict == told[-1].verdict


async def test_a_hazard_that_the_whole_text_hides_stays_unsafe(stub: Any, classifier: Gated) -> None:
    classifier.answer = lambda texts: [answer(0.9 if text.endswith("bomb.") else 0.2) for text in texts]
    told = await answers(
        stub, [opening("r"), piece("r", "How to build a bomb."), piece("r", " Bread needs flour.", last=True)]
    )
    assert [(each.verdict.decision, each.final, each.judged_characters) for each in told] == [
        (UNSAFE, False, 20),
        (UNSAFE, True, 39),
    ]
    first, last = told
    assert last.verdict == first.verdict
    assert (last.current_verdict.decision, last.current_verdict.unsafe_probability) == (SAFE, 0.2)
    assert not first.HasField("current_verdict")


async def test_no_safe_verdict_is_final_before_the_end_was_declared(stub: Any) -> None:
    requests = [opening("never-ended"), opening("ended")]
    for _ in range(6):
        requests += [piece("never-ended", "a harmless piece "), piece("ended", "a harmless piece ")]
    told = await answers(stub, [*requests, piece("ended", ".", last=True)])
    *rolling, last = of("never-ended", told)
    assert len(rolling) == 6
    assert {(each.verdict.decision, each.final) for each in rolling} == {(SAFE, False)}
    assert (from_status(last.status).reason, last.final) == ("RESPONSE_NOT_ENDED", True)
    *rolling, last = of("ended", told)
    assert {(each.verdict.decision, each.final) for each in rolling} == {(SAFE, False)}
    assert (last.verdict.decision, last.final) == (SAFE, True)


async def test_verdicts_on_one_response_come_in_their_order(stub: Any, classifier: Gated) -> None:
    slow = asyncio.Event()
    first_asked = asyncio.Event()

    async def answered(texts: Sequence[str]) -> Sequence[LabelledText]:
        if any(len(text) < 40 for text in texts):
            first_asked.set()
            await slow.wait()
        elif any(len(text) >= 80 for text in texts):
            slow.set()
        return [answer(0.1) for _ in texts]

    classifier.answer = answered

    async def requests() -> AsyncIterator[Request]:
        yield opening("r")
        yield piece("r", "x" * 20)
        # Only then: what comes in the same moment would share the first request.
        await first_asked.wait()
        yield piece("r", "x" * 60, last=True)

    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        told = [each async for each in stub.StreamClassify(requests())]
    assert [(each.judged_characters, each.final) for each in told] == [(20, False), (80, True)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"verdict_every_characters": 3}, "VERDICT_INTERVAL_OUT_OF_RANGE"),
        ({"verdict_every_characters": -1}, "VERDICT_INTERVAL_OUT_OF_RANGE"),
        ({"guard": "guards/nobody"}, "GUARD_NOT_FOUND"),
        ({"guard": "guards/prompts"}, "ASPECT_NOT_JUDGED"),
        ({"threshold": 2.0}, "THRESHOLD_OUT_OF_RANGE"),
        ({"policy": "policies/none"}, "POLICY_NOT_FOUND"),
        ({"conversation": {"messages": [{"content": "x"}]}}, "ROLE_MISSING"),
    ],
)
async def test_a_response_that_cannot_be_judged_is_refused_once(stub: Any, fields: Any, reason: str) -> None:
    told = await answers(stub, [opening("r", **fields), piece("r", "x" * 50), piece("r", "y", last=True)])
    [outcome] = told
    assert (outcome.item_id, outcome.final, from_status(outcome.status).reason) == ("r", True, reason)


async def test_pieces_without_a_response_and_too_many_responses_are_errors(stub: Any) -> None:
    told = await answers(
        stub, [piece("x", "?"), piece("x", "?"), opening("a"), opening("b"), opening("c"), opening("a")]
    )
    reasons = [(each.item_id, from_status(each.status).reason) for each in told]
    assert {each.final for each in told if from_status(each.status).reason == "ITEM_ID_REUSED"} == {False}
    assert sorted(reasons) == [
        ("a", "ITEM_ID_REUSED"),
        ("a", "RESPONSE_NOT_ENDED"),
        ("b", "RESPONSE_NOT_ENDED"),
        ("c", "TOO_MANY_OPEN_RESPONSES"),
        ("x", "RESPONSE_NOT_OPEN"),
    ]


async def test_a_response_longer_than_allowed_ends_in_an_error(stub: Any) -> None:
    told = await answers(stub, [opening("r"), piece("r", "x" * 390), piece("r", "y" * 20), piece("r", "z", last=True)])
    assert [(each.final, each.WhichOneof("outcome")) for each in told] == [(False, "verdict"), (True, "status")]
    assert from_status(told[1].status).reason == "RESPONSE_TOO_LONG"


async def test_a_guard_that_was_away_for_a_while_does_not_end_a_response(stub: Any, classifier: Gated) -> None:
    asked = 0

    def answered(texts: Sequence[str]) -> Sequence[LabelledText]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise UnavailableError("away", reason="GUARD_UNAVAILABLE")
        return [answer(0.1) for _ in texts]

    classifier.answer = answered
    call = stub.StreamClassify()
    await call.write(opening("r"))
    await call.write(piece("r", "x" * 20))
    first = await call.read()
    assert (from_status(first.status).reason, first.final, first.judged_characters) == ("GUARD_UNAVAILABLE", False, 20)
    await call.write(piece("r", "x", last=True))
    last = await call.read()
    assert (last.verdict.decision, last.final, last.judged_characters) == (SAFE, True, 21)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_what_a_shared_request_cost_before_it_failed_is_told_once(stub: Any, classifier: Gated) -> None:
    cost = Usage(computed_prompt_tokens=5)

    def answered(texts: Sequence[str]) -> Sequence[LabelledText]:
        raise with_usage(UnavailableError("away", reason="GUARD_UNAVAILABLE"), cost)

    classifier.answer = answered
    told = outcomes_in(await answers(stub, [together(*(item(str(number), str(number)) for number in range(8)))]))
    errors = [from_status(each.status) for each in told]
    assert {each.reason for each in errors} == {"GUARD_UNAVAILABLE"}
    assert len(classifier.requests) < len(errors) == 8
    assert sum((usage_of(each) for each in errors), Usage()) == sum([cost] * len(classifier.requests), Usage())


async def test_policies_hold_for_turns_and_growing_responses(stub: Any) -> None:
    told = await answers(
        stub,
        [
            item("turn", "a bomb", policy="policies/soft"),
            opening("r", policy="policies/soft"),
            piece("r", "a bomb", last=True),
        ],
    )
    assert {each.item_id: each.verdict.decision for each in told} == {"turn": SAFE, "r": SAFE}
    assert {each.verdict.policy.name for each in told} == {"policies/soft"}


async def test_cancelling_a_stream_stops_the_guards_work(stub: Any, classifier: Gated) -> None:
    classifier.open.clear()
    call = stub.StreamClassify(item(str(number)) for number in range(40))
    await classifier.until(lambda: classifier.in_flight == 2)
    call.cancel()
    await classifier.until(lambda: classifier.cancelled == 2 and classifier.in_flight == 0)


async def test_no_more_is_read_than_there_is_room_for(stub: Any, classifier: Gated) -> None:
    classifier.open.clear()
    sent = 0

    async def items() -> AsyncIterator[Request]:
        nonlocal sent
        for number in range(40):
            yield item(str(number), "x" * 1_000_000)
            sent += 1

    call = stub.StreamClassify(items())
    await classifier.until(lambda: classifier.in_flight == 2)
    before = -1
    while sent > before:
        before = sent
        await asyncio.sleep(0.2)
    # Eight items, and what the transport holds.
    assert sent < 32
    classifier.open.set()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        assert len([each async for each in call]) == 40

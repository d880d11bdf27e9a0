"""Items and batches that are larger than a message may be: they fail alone, or go in parts."""

import asyncio
from collections.abc import Sequence

import pytest
from evalfleet import answer_messages, score_messages, verdict_messages
from evalfleet.aio import AsyncFleet
from evalfleet.aio import bulk as aio_bulk
from evalfleet.answers import Sampling
from evalfleet.batches import answered_batches
from evalfleet.channels import MAX_MESSAGE_BYTES
from evalfleet.errors import EvalFleetError, ResourceExhaustedError
from evalfleet.fleet import Fleet
from evalfleet.message_sizes import LARGEST_ITEM_BYTES
from evalfleet.results import Decision, Verdict
from evalfleet.safety.v1 import safety_pb2
from evalfleet.verdicts import Conversation

from tests.fakes.fleet import FakeFleet

TOO_LARGE = "x" * MAX_MESSAGE_BYTES
OVER_SERVER_LIMIT = "x" * (5 << 20)
"""The fake fleet's server has gRPC's own limit, of 4 MiB."""


def asking(*texts: str) -> list[Conversation]:
    return [[("user", each)] for each in texts]


def told(outcome: Verdict | EvalFleetError) -> str:
    return outcome.reason if isinstance(outcome, EvalFleetError) else outcome.decision.value


@pytest.fixture
def judged(fake: FakeFleet) -> FakeFleet:
    fake.safety.judges[""] = lambda request: safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE)
    return fake


def test_an_item_that_no_message_can_carry_does_not_end_the_stream_of_the_others(judged: FakeFleet) -> None:
    with Fleet.connect(judged.targets) as fleet:
        outcomes = dict(fleet.safety.classify_many(asking("a", TOO_LARGE, "b")))
    assert [told(outcomes[number]) for number in range(3)] == ["safe", "ITEM_TOO_LARGE", "safe"]


def test_an_item_is_too_large_whatever_is_asked_of_it() -> None:
    found = [
        verdict_messages.classify_request_or_error([("user", TOO_LARGE)]),
        score_messages.score_request_or_error({"text": TOO_LARGE}, "exact_match", None),
        answer_messages.generate_request_or_error("m", TOO_LARGE, Sampling(), priority=None),
    ]
    assert [each.reason for each in found if isinstance(each, EvalFleetError)] == ["ITEM_TOO_LARGE"] * 3
    fits = "x" * (LARGEST_ITEM_BYTES - 1000)
    assert not isinstance(verdict_messages.classify_request_or_error([("user", fits)]), EvalFleetError)


def test_a_batch_is_cut_where_its_message_would_be_too_large() -> None:
    third = safety_pb2.ClassifyRequest(guard="x" * (LARGEST_ITEM_BYTES // 3))
    counts: list[int] = []

    def ask(some: list[safety_pb2.ClassifyRequest]) -> Sequence[int]:
        assert safety_pb2.BatchClassifyRequest(requests=some).ByteSize() < MAX_MESSAGE_BYTES
        counts.append(len(some))
        return range(len(some))

    small = safety_pb2.ClassifyRequest(guard="g")
    assert answered_batches([third, third, third, small, small], ask, largest=256) == [0, 1, 0, 1, 2]
    assert counts == [2, 3]


def test_a_batch_that_is_too_large_for_the_service_is_asked_in_halves(judged: FakeFleet) -> None:
    large = "x" * (1 << 20)
    conversations = asking("a", large, large, large, "b", OVER_SERVER_LIMIT, large, "c")
    wanted = [Decision.SAFE.value] * 5 + ["ITEM_TOO_LARGE"] + [Decision.SAFE.value] * 2
    with Fleet.connect(judged.targets) as fleet:
        assert [told(each) for each in fleet.safety.classify_batch(conversations)] == wanted

    async def awaited() -> list[Verdict | EvalFleetError]:
        async with AsyncFleet.connect(judged.targets) as fleet:
            return await fleet.safety.classify_batch(conversations)

    assert [told(each) for each in asyncio.run(awaited())] == wanted


def test_a_service_that_is_full_is_not_asked_in_halves() -> None:
    asked: list[list[int]] = []

    def ask(some: list[int]) -> list[int]:
        asked.append(some)
        raise ResourceExhaustedError("the queue is full")

    async def ask_awaited(some: list[int]) -> list[int]:
        return ask(some)

    with pytest.raises(ResourceExhaustedError):
        answered_batches([1, 2], ask, largest=2)
    with pytest.raises(ResourceExhaustedError):
        asyncio.run(aio_bulk.answered_batches([1, 2], ask_awaited, largest=2))
    assert asked == [[1, 2], [1, 2]]

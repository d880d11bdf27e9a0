"""Items and batches that are larger than a message may be: they fail alone, or go in parts."""

import pytest
from evalfleet import answer_messages, score_messages, verdict_messages
from evalfleet.answers import Sampling
from evalfleet.channels import MAX_MESSAGE_BYTES
from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet
from evalfleet.message_sizes import LARGEST_ITEM_BYTES
from evalfleet.results import Verdict
from evalfleet.safety.v1 import safety_pb2
from evalfleet.verdicts import Conversation

from tests.fakes.fleet import FakeFleet

TOO_LARGE = "x" * MAX_MESSAGE_BYTES


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

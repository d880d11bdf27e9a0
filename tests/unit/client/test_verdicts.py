import pytest
from evalfleet.fleet import Fleet
from evalfleet.results import Decision
from evalfleet.safety.v1 import safety_pb2

from tests.fakes.fleet import FakeFleet


def test_a_users_turn_is_judged_as_a_prompt_and_an_answer_as_a_response(fake: FakeFleet, fleet: Fleet) -> None:
    fleet.safety.classify([("user", "hello")])
    fleet.safety.classify([("system", "be nice"), ("user", "hello"), ("assistant", "hi")], guard="g", threshold=0.2)
    prompt, response = fake.safety.requests
    assert prompt.aspect == safety_pb2.ASPECT_PROMPT
    assert not prompt.HasField("threshold")
    assert prompt.guard == ""
    assert response.aspect == safety_pb2.ASPECT_RESPONSE
    assert (response.guard, response.threshold) == ("guards/g", 0.2)
    assert [each.content for each in response.conversation.messages] == ["be nice", "hello", "hi"]


def test_a_verdict_keeps_what_the_guard_said(fleet: Fleet) -> None:
    verdict = fleet.safety.classify([("user", "x")])
    assert (verdict.decision, verdict.unsafe_probability, verdict.threshold) == (Decision.UNSAFE, 0.91, 0.5)
    (category,) = verdict.categories
    assert (category.code, category.ailuminate_code, category.probability) == ("violence", "vcr", 0.875)


@pytest.mark.parametrize("decision", [safety_pb2.DECISION_UNSPECIFIED, safety_pb2.DECISION_ERROR, 42])
def test_what_is_not_understood_is_an_error_and_never_safe(fake: FakeFleet, fleet: Fleet, decision: int) -> None:
    fake.safety.verdict = safety_pb2.Verdict()
    fake.safety.verdict.decision = decision  # type: ignore[assignment]
    verdict = fleet.safety.classify([("user", "x")])
    assert verdict.decision is Decision.ERROR
    assert verdict.unsafe_probability is None

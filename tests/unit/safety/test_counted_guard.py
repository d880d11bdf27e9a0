"""What guards decide is counted, and so is what they could not judge."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.errors import UnavailableError
from services.safety.counted_guard import CountedGuard, VerdictMetrics
from services.safety.judgement import Aspect, Decision, JudgedTurn, Role, Turn
from tests.fakes.guards import FakeGuard

TURN = JudgedTurn([Turn(Role.USER, "Hello")], 0, Aspect.PROMPT)


async def test_verdicts_are_counted_by_guard_and_decision() -> None:
    registry = CollectorRegistry()

    def count(decision: str) -> float | None:
        labels = {"guard": guard.about.name, "decision": decision}
        return registry.get_sample_value("evalfleet_safety_verdicts_total", labels)

    inner = FakeGuard()
    guard = CountedGuard(inner, VerdictMetrics(registry))
    assert [count(each) for each in ("safe", "unsafe", "controversial", "error", "unjudged")] == [0] * 5
    assert await guard.judge([TURN, TURN]) == await inner.judge([TURN, TURN])
    inner.say = lambda turn: inner.saying(Decision.ERROR)
    await guard.judge([TURN])
    assert (count("safe"), count("error"), count("unjudged")) == (2, 1, 0)

    def fail(turn: JudgedTurn) -> Any:
        raise UnavailableError("away")

    inner.say = fail
    with pytest.raises(UnavailableError):
        await guard.judge([TURN] * 3)
    assert (count("safe"), count("unjudged")) == (2, 3)
    assert guard.about == inner.about
    assert await guard.is_ready()

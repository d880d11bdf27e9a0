"""The cascade on fake guards: only what a cheap stage is sure of is spared the last, and nothing fails open."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from services.runtime.errors import DeadlineExceededError, FleetError, InternalError, UnavailableError
from services.safety.cascade import CascadeGuard, CascadeMetrics
from services.safety.cascade_file import CascadeFile
from services.safety.judgement import CategoryScore, Decision, HazardCategory, JudgedTurn, Verdict
from tests.fakes.guard import FakeGuard, Judge, prompts

SAFE, UNSAFE, ERROR = Decision.SAFE, Decision.UNSAFE, Decision.ERROR


def stage(name: str, **changes: Any) -> dict[str, Any]:
    digests = {"weights_digest": "w" * 64, "template_digest": "t" * 64, "calibration_digest": "c" * 64}
    return {"guard": f"guards/{name}", **digests, "engine": "fake", "dtype": "float32", **changes}


def cascade_file(*stages: dict[str, Any], digest: str = "d" * 64) -> CascadeFile:
    return CascadeFile.model_validate(
        {
            "format": "evalfleet/cascade-calibration/1",
            "name": "two",
            "description": "Cheap, then dear.",
            "promise": {"disagreement": 0.02, "confidence": 0.9},
            "stages": stages,
            "digest": digest,
        }
    )


class Cascade:
    """A cascade of two fakes: sure below 0.2 and from 0.8 on."""

    def __init__(self, cheap: Judge | None = None, last: Judge | None = None, temperature: float = 1.0) -> None:
        self.cheap, self.last = FakeGuard("cheap", cheap), FakeGuard("last", last or self._says_unsafe)
        self.registry = CollectorRegistry()
        first = stage("cheap", low=0.2, high=0.8, temperature=temperature)
        file = cascade_file(first, stage("last"))
        self.guard = CascadeGuard(file, [self.cheap, self.last], CascadeMetrics(self.registry))

    def _says_unsafe(self, turn: JudgedTurn) -> Verdict:
        return self.last.verdict(UNSAFE, 0.9, 0.6)

    def count(self, metric: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(
            f"evalfleet_safety_cascade_{metric}_total", {"cascade": "guards/two", **labels}
        )


async def test_only_what_the_cheap_guard_is_sure_of_is_spared_the_last() -> None:
    made = Cascade()
    texts = ["0.0", "0.2", "0.21", "0.5", "0.79", "0.8", "1.0"]
    verdicts = await made.guard.judge(prompts(*texts))
    assert [each.decision for each in verdicts] == [SAFE, SAFE, UNSAFE, UNSAFE, UNSAFE, UNSAFE, UNSAFE]
    assert made.last.judged == ["0.21", "0.5", "0.79"]
    assert [each.unsafe_probability for each in verdicts] == [0.0, 0.2, 0.9, 0.9, 0.9, 0.8, 1.0]
    assert [each.threshold for each in verdicts] == [0.8, 0.8, 0.6, 0.6, 0.6, 0.8, 0.8]
    assert made.count("turns", stage="guards/cheap", is_last="false") == 4
    assert made.count("turns", stage="guards/last", is_last="true") == 3


async def test_each_stage_is_asked_once_and_the_last_not_at_all_when_nothing_is_left() -> None:
    made = Cascade()
    await made.guard.judge(prompts("0.1", "0.9", "0.1"))
    assert (len(made.cheap.requests), made.last.requests) == (1, [])


UNSURE: dict[str, Judge] = {
    "an error": lambda turn: FakeGuard().verdict(ERROR),
    "an error with a probability": lambda turn: FakeGuard().verdict(ERROR, 0.0),
    "a middle level": lambda turn: FakeGuard().verdict(Decision.CONTROVERSIAL, 0.0),
    "no probability": lambda turn: FakeGuard().verdict(SAFE, None),
    "nan": lambda turn: FakeGuard().verdict(SAFE, math.nan),
    "minus infinity": lambda turn: FakeGuard().verdict(SAFE, -math.inf),
    "below zero": lambda turn: FakeGuard().verdict(SAFE, -0.5),
    "above one": lambda turn: FakeGuard().verdict(UNSAFE, 1.5),
    "only a part was read": lambda turn: FakeGuard().verdict(SAFE, 0.0, truncated=True),
    "safe, and a hazard that nobody knows": lambda turn: FakeGuard().verdict(SAFE, 0.0, unmapped=True),
    "a window that was not judged": lambda turn: replace(FakeGuard().verdict(UNSAFE, 0.0), unjudged_reason="X"),
    "its word against its probability": lambda turn: FakeGuard().verdict(UNSAFE, 0.0, None),
    "in between": lambda turn: FakeGuard().verdict(SAFE, 0.5),
}


@pytest.mark.parametrize("name", UNSURE)
async def test_what_is_not_sure_goes_to_the_last_guard(name: str) -> None:
    made = Cascade(UNSURE[name])
    verdicts = await made.guard.judge(prompts("a", "b"))
    assert [each.decision for each in verdicts] == [UNSAFE, UNSAFE]
    assert made.last.judged == ["a", "b"]


@pytest.mark.parametrize("error", [UnavailableError("away"), InternalError("broken")])
async def test_a_cheap_guard_that_is_away_hands_everything_on(error: FleetError) -> None:
    made = Cascade()
    made.cheap.failure = error
    assert [each.decision for each in await made.guard.judge(prompts("0.0"))] == [UNSAFE]
    assert made.count("failures", stage="guards/cheap") == 1


async def test_verdicts_that_belong_to_nobody_hand_everything_on() -> None:
    made = Cascade()
    made.cheap.lost_verdicts = 1
    verdicts = await made.guard.judge(prompts("0.0", "0.0"))
    assert [each.decision for each in verdicts] == [UNSAFE, UNSAFE]


async def test_the_last_guards_failure_is_the_cascades() -> None:
    broken = Cascade(last=lambda turn: FakeGuard("last").verdict(ERROR))
    [verdict] = await broken.guard.judge(prompts("0.5"))
    assert (verdict.decision, verdict.error_reason) == (ERROR, "FAKE_FAILURE")
    away = Cascade()
    away.last.failure = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await away.guard.judge(prompts("0.5", "0.1"))


async def test_the_callers_time_is_not_spent_on_a_second_stage() -> None:
    made = Cascade()
    made.cheap.failure = DeadlineExceededError("late")
    with pytest.raises(DeadlineExceededError):
        await made.guard.judge(prompts("0.5"))
    assert made.last.requests == []


async def test_a_threshold_of_the_callers_own_is_the_last_guards_business() -> None:
    made = Cascade()
    await made.guard.judge([*prompts("0.0", threshold=0.3), *prompts("0.1")])
    assert made.cheap.judged == ["0.1"]
    assert [turn.threshold for turn in made.last.requests[0]] == [0.3]


async def test_the_cheap_guard_is_asked_as_when_it_was_calibrated_and_names_what_reached_its_bound() -> None:
    scores = tuple(
        CategoryScore(HazardCategory("tests", "1", code), value)
        for code, value in (("violence", 0.85), ("hate", 0.6), ("unsaid", None))
    )
    made = Cascade(lambda turn: FakeGuard().verdict(UNSAFE, 0.9, categories=scores[:2], all_scores=scores))
    [verdict] = await made.guard.judge(prompts("x"))
    assert [turn.threshold for turn in made.cheap.requests[0]] == [None]
    assert [each.category.code for each in verdict.categories] == ["violence"]


async def test_probabilities_are_scaled_together_with_the_bound() -> None:
    hazard = CategoryScore(HazardCategory("tests", "1", "violence"), 0.85)
    made = Cascade(
        lambda turn: FakeGuard().verdict(UNSAFE, 0.9, categories=(hazard,), all_scores=(hazard,)), temperature=2.0
    )
    [verdict] = await made.guard.judge(prompts("x"))
    assert verdict.unsafe_probability == pytest.approx(0.75)
    assert verdict.threshold == pytest.approx(2 / 3)
    assert verdict.threshold is not None
    assert verdict.unsafe_probability is not None
    assert verdict.categories[0].probability is not None
    assert verdict.threshold < verdict.categories[0].probability < verdict.unsafe_probability
    assert verdict.all_scores == verdict.categories


async def test_every_verdict_names_the_cascade_and_who_decided() -> None:
    made = Cascade()
    sure, unsure = await made.guard.judge(prompts("0.1", "0.5"))
    reference = made.guard.about.reference
    assert sure.guard == replace(reference, engine="cascade/cheap", dtype="float32")
    assert unsure.guard == replace(reference, engine="cascade/last", dtype="float32")
    assert reference.name == "guards/two"


def test_the_reference_covers_all_stages_and_the_calibration() -> None:
    stages = [stage("cheap", low=0.2), stage("last")]
    guards = [FakeGuard("cheap"), FakeGuard("last")]

    def reference(file: CascadeFile, *changed: FakeGuard) -> Any:
        return CascadeGuard(file, list(changed), CascadeMetrics(CollectorRegistry())).about.reference

    before = reference(cascade_file(*stages), *guards)
    assert reference(cascade_file(*stages, digest="e" * 64), *guards).calibration_digest != before.calibration_digest
    for index in range(2):
        for field in ("weights_digest", "template_digest", "calibration_digest"):
            changed = [FakeGuard("cheap"), FakeGuard("last")]
            about = changed[index].about
            changed[index]._about = replace(about, reference=replace(about.reference, **{field: "x" * 64}))
            assert getattr(reference(cascade_file(*stages), *changed), field) != getattr(before, field)


async def test_it_is_ready_when_all_stages_are() -> None:
    made = Cascade()
    assert await made.guard.is_ready()
    made.cheap.ready = False
    assert not await made.guard.is_ready()


async def test_a_stage_in_the_middle_decides_too() -> None:
    guards = [FakeGuard("one"), FakeGuard("middle"), FakeGuard("three")]
    file = cascade_file(stage("one", low=0.1, high=0.9), stage("middle", low=0.4, high=0.6), stage("three"))
    verdicts = await CascadeGuard(file, guards, CascadeMetrics(CollectorRegistry())).judge(
        prompts("0.05", "0.3", "0.5", "0.7", "0.95")
    )
    assert [each.decision for each in verdicts] == [SAFE, SAFE, UNSAFE, UNSAFE, UNSAFE]
    assert [guard.judged for guard in guards[1:]] == [["0.3", "0.5", "0.7"], ["0.5"]]


@given(
    st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True).map(str), st.text(max_size=5)), max_size=20),
    st.floats(0, 0.99),
    st.floats(0.01, 1),
)
async def test_wild_verdicts_are_safe_only_where_the_calibration_says_so(
    texts: list[str], low: float, high: float
) -> None:
    low, high = min(low, high), max(low, high)
    if low == high:
        return
    file = cascade_file(stage("cheap", low=low, high=high), stage("last"))
    last = FakeGuard("last", lambda turn: FakeGuard("last").verdict(ERROR))
    guard = CascadeGuard(file, [FakeGuard("cheap"), last], CascadeMetrics(CollectorRegistry()))
    for text, verdict in zip(texts, await guard.judge(prompts(*texts)), strict=True):
        if verdict.decision is SAFE:
            assert 0 <= float(text) <= low
        elif verdict.decision is UNSAFE:
            assert high <= float(text) <= 1
        else:
            assert text in last.judged

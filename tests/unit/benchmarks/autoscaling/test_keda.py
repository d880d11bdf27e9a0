"""KEDA's decisions: zero to one and back, and what follows when triggers fail; for every ScaledObject of ours."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.autoscaling.keda import Fallback, KedaOperator, Sample, ScaledObject, Trigger
from benchmarks.autoscaling.manifests import COMPONENTS, read_document, scaled_object

OURS = [
    scaled_object(document)
    for path in sorted(COMPONENTS.glob("keda*/*.yaml"))
    if not path.name.endswith("-patch.yaml") and (document := read_document(path))["kind"] == "ScaledObject"
]
POOL = next(each for each in OURS if each.name == "triton")
IDLE, BUSY = Sample(0, False), Sample(500, True)
ONE = Trigger("prometheus", {}, 100)


def one(**changes: object) -> ScaledObject:
    return replace(ScaledObject("o", "o", (ONE,), cooldown_seconds=300), **changes)  # type: ignore[arg-type]


def test_ours_are_all_there() -> None:
    assert [each.name for each in OURS] == ["triton", "evaluation", "guard-triton", "triton-pool"]


def test_the_first_work_makes_one_and_the_autoscaler_the_others() -> None:
    operator = KedaOperator(one())
    assert operator.poll(0, 0, [IDLE]) == 0
    assert operator.poll(15, 0, [BUSY]) == 1
    assert operator.scale(15, 1, [BUSY]) == 5
    assert KedaOperator(one(least=3)).poll(0, 0, [BUSY]) == 3


def test_it_sleeps_once_the_cooldown_since_the_last_work_is_over() -> None:
    operator = KedaOperator(one())
    assert operator.woken(100, 0) == 1
    assert operator.poll(115, 8, [IDLE]) == 8
    assert operator.poll(200, 8, [BUSY]) == 8
    assert operator.poll(500, 8, [IDLE]) == 8
    assert operator.poll(501, 8, [IDLE]) == 0
    assert KedaOperator(one(least=2)).poll(501, 8, [IDLE]) == 8


def test_a_failing_trigger_counts_as_what_there_is_after_enough_failures() -> None:
    operator = KedaOperator(one(fallback=Fallback(2, 6, "currentReplicasIfHigher")))
    assert [operator.scale(15.0 * at, 3, [None]) for at in range(3)] == [3, 3, 6]
    kept = KedaOperator(one(fallback=Fallback(2, 6, "static")))
    assert [kept.scale(15.0 * at, 60, [None]) for at in range(2)] == [60, 60]


def test_a_fallback_to_none_lets_a_failing_trigger_pass_for_an_idle_one() -> None:
    # What our manifests must not have: see fallback.replicas there.
    wrong = KedaOperator(replace(POOL, fallback=Fallback(3, 0, "currentReplicas")))
    failing = [None] * len(POOL.triggers)
    wrong.woken(0, 0)
    assert wrong.poll(15, 40, failing) == 40
    assert wrong.poll(POOL.cooldown_seconds + 1, 40, failing) == 0


def some_sample(chance: random.Random) -> Sample | None:
    value = chance.choice([0, 0, 1, 40, 3000, 40_000]) * chance.random()
    return None if chance.random() < 0.2 else Sample(value, value > 0)


def step(operator: KedaOperator, at: int, replicas: int, found: list[Sample | None]) -> int:
    now = 15.0 * at
    return operator.scale(now, operator.poll(now, replicas, found), found)


@pytest.mark.parametrize("scaled", OURS, ids=lambda each: each.name)
@given(seed=st.integers(0, 2**32), is_whole=st.booleans())
@settings(max_examples=50)
def test_an_outage_never_reduces_replicas(scaled: ScaledObject, seed: int, is_whole: bool) -> None:
    """Of all triggers, or of Prometheus' alone while the scaler says whatever it says."""
    chance = random.Random(seed)
    operator, replicas = KedaOperator(scaled), chance.randint(scaled.least, scaled.most)
    begins_at = chance.randint(0, 60)
    for at in range(begins_at):
        replicas = step(operator, at, replicas, [some_sample(chance) for _ in scaled.triggers])
    is_whole = is_whole or len(scaled.triggers) == 1
    for at in range(begins_at, begins_at + 150):
        answer = None if is_whole else some_sample(chance)
        found = [answer if each.kind == "external-push" else None for each in scaled.triggers]
        before, replicas = replicas, step(operator, at, replicas, found)
        assert replicas >= before


@pytest.mark.parametrize("scaled", OURS, ids=lambda each: each.name)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_nothing_sleeps_while_a_run_waits(scaled: ScaledObject, seed: int) -> None:
    """Whatever the other triggers say, also when the scaler cannot always be asked."""
    chance = random.Random(seed)
    operator = KedaOperator(scaled)
    replicas = operator.woken(0, 0)
    for at in range(1, 200):
        work = chance.choice([None, Sample(1, True), Sample(500 * chance.random(), True)])
        found = [
            work if each.kind == "external-push" else chance.choice([IDLE, None, some_sample(chance)])
            for each in scaled.triggers
        ]
        replicas = step(operator, at, replicas, found)
        assert replicas >= 1

"""The autoscaler's decisions, against examples of Kubernetes' documentation and by hand."""

from itertools import pairwise

from benchmarks.autoscaling.horizontal import Behavior, HorizontalAutoscaler, Policy, Reading, Rules

INSTANT_DOWN = Rules(0, (Policy("Percent", 100, 15),))


def average(value: float | None, target: float = 100) -> list[Reading]:
    return [Reading(value, target)]


def hpa(*, least: int = 1, most: int = 1000, behavior: Behavior | None = None) -> HorizontalAutoscaler:
    return HorizontalAutoscaler(least, most, behavior or Behavior(down=INSTANT_DOWN))


def test_twice_the_target_doubles_and_half_halves() -> None:
    # "if the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled, since
    # 200.0 / 100.0 == 2.0. If the current value is instead 50m, you'll halve the number of replicas".
    assert hpa().decide(0, 3, [Reading(200, 100, "Utilization")]) == 6
    assert hpa().decide(0, 4, [Reading(50, 100, "Utilization")]) == 2
    assert hpa().decide(0, 3, average(3 * 200)) == 6


def test_within_a_tenth_nothing_changes_and_beyond_it_is_rounded_up() -> None:
    for value, replicas in ((1099, 10), (1100, 10), (1101, 12), (901, 10), (900, 10), (899, 9), (801, 9), (800, 8)):
        assert hpa().decide(0, 10, average(value)) == replicas, value


def test_the_largest_of_several_metrics_counts_and_one_that_is_missing_keeps_what_is_there() -> None:
    assert hpa().decide(0, 4, [*average(300), *average(600)]) == 6
    assert hpa().decide(0, 4, [*average(200), *average(None)]) == 4
    assert hpa().decide(0, 4, [*average(600), *average(None)]) == 6
    assert hpa().decide(0, 4, average(None)) == 4


def test_replicas_that_are_not_ready_count_as_idle_on_the_way_up() -> None:
    # 5 ready at 160 % of the target and 5 that start: 80 % over all ten, which would turn the direction round.
    assert hpa().decide(0, 10, [Reading(160, 100, "Utilization")], ready=5) == 10
    assert hpa().decide(0, 10, [Reading(160, 100, "Utilization")], ready=8) == 13


def test_by_default_it_at_most_doubles_or_adds_four_within_15_seconds() -> None:
    scaler = hpa()
    replicas, seen = 1, []
    for step in range(4):
        replicas = scaler.decide(15.0 * step, replicas, average(10_000))
        seen.append(replicas)
    assert seen == [5, 10, 20, 40]


def test_what_the_period_has_used_up_already_is_taken_off() -> None:
    scaler = hpa(behavior=Behavior(up=Rules(0, (Policy("Pods", 4, 60),))))
    assert scaler.decide(0, 10, average(1300)) == 13
    assert scaler.decide(15, 13, average(10_000)) == 14
    assert scaler.decide(30, 14, average(10_000)) == 14
    assert scaler.decide(61, 14, average(10_000)) == 17
    assert scaler.decide(76, 17, average(10_000)) == 18


def test_scaling_down_by_a_tenth_a_minute() -> None:
    # The documentation's example: 80 replicas, 10 % a minute: 72, then 64 ("7.2 is rounded up to 8"), …, and 4 a minute
    # are the larger change from 40 on; at 5 pods or less the autoscaler's own minimum.
    scaler = hpa(behavior=Behavior(down=Rules(0, (Policy("Pods", 4, 60), Policy("Percent", 10, 60)))))
    replicas, seen = 80, []
    for minute in range(13):
        replicas = scaler.decide(61.0 * minute, replicas, average(1))
        seen.append(replicas)
    assert seen[:4] == [72, 64, 57, 51]
    assert [before - after for before, after in pairwise(seen[6:])] == [4] * 6
    disabled = hpa(behavior=Behavior(down=Rules(0, (Policy("Pods", 4, 60),), select="Disabled")))
    assert disabled.decide(0, 80, average(1)) == 80


def test_the_highest_recommendation_of_the_window_holds_on_the_way_down() -> None:
    scaler = hpa(behavior=Behavior())
    assert scaler.decide(0, 10, average(1000)) == 10
    assert scaler.decide(15, 10, average(400)) == 10
    assert scaler.decide(150, 10, average(600)) == 10
    assert scaler.decide(301, 10, average(400)) == 6
    assert scaler.decide(316, 6, average(400)) == 6
    assert scaler.decide(451, 6, average(400)) == 4


def test_what_there_was_when_it_began_counts_as_recommended() -> None:
    scaler = hpa(behavior=Behavior())
    assert [scaler.decide(at, 10, average(400)) for at in (0, 150, 299)] == [10, 10, 10]
    assert scaler.decide(301, 10, average(400)) == 4


def test_the_lowest_recommendation_of_the_window_holds_on_the_way_up() -> None:
    scaler = hpa(behavior=Behavior(up=Rules(60, (Policy("Percent", 900, 15),))))
    assert scaler.decide(0, 2, average(200)) == 2
    assert scaler.decide(30, 2, average(800)) == 2
    assert scaler.decide(61, 2, average(800)) == 8


def test_it_stays_within_its_limits_and_leaves_zero_to_others() -> None:
    assert hpa(most=6).decide(0, 4, average(10_000)) == 6
    assert hpa(least=2).decide(0, 4, average(0)) == 2
    assert hpa(most=6).decide(0, 9, average(900)) == 6
    assert hpa().decide(0, 0, average(900)) == 0

"""Which way a metric is better: the suite says it, and where that is gone or older, the scorers do."""

from evalfleet.exports.sources import Publisher, read_run
from evalfleet.fleet import Fleet
from evalfleet.scoring.v1 import scoring_pb2

from tests.fakes.checkpoint_runs import SUITE
from tests.fakes.fleet import FakeFleet


def directions(fleet: Fleet) -> dict[tuple[str, str], bool]:
    exported = read_run(fleet, "step-1000", Publisher())
    estimates = {(each.task, each.metric) for each in exported.snapshot.estimates}
    return {key: exported.lower_is_better(*key) for key in estimates}


def test_directions_come_from_the_suite_and_else_from_the_scorers(fake: FakeFleet, fleet: Fleet) -> None:
    lower = {("gsm8k", "exact_match"): False, ("gsm8k", "answered"): False}
    lower |= {("harmbench", "unsafe"): True, ("harmbench", "refusal"): False}
    assert directions(fleet) == lower

    suite = fake.evaluation.suites[SUITE]
    refusal = next(each for each in suite.tasks[1].metrics if each.name == "refusal")
    refusal.higher_is_better = False
    assert directions(fleet) == lower | {("harmbench", "refusal"): True}

    # From a service of an earlier release, and of a suite that there is no more.
    metrics = [scoring_pb2.Metric(name="unsafe"), scoring_pb2.Metric(name="exact_match", higher_is_better=True)]
    fake.scoring.scorers.append(scoring_pb2.Scorer(name="scorers/both", metrics=metrics))
    for task in suite.tasks:
        task.ClearField("metrics")
    assert directions(fleet) == lower
    fake.evaluation.suites.clear()
    assert directions(fleet) == lower

"""Gathers what a report says from a fleet; everything comes through the API."""

from collections.abc import Sequence
from datetime import UTC, datetime

from evalfleet.comparison_results import ComparedMetric, Regressions, WatchedMetric
from evalfleet.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.reports.facts import ComparedPair, ReportFacts, RunFacts, ShownItem, labels_of
from evalfleet.reports.item_choice import ItemChoice, bounded, shares_of
from evalfleet.results import GuardQuality, RunSnapshot, Suite

DEFAULT_ITEMS = 300
_MOST_READ = 20_000
"""Results of a task that are looked at to choose items from: a report of a million items is not to take an hour."""
_LEAST_FOR_REGRESSIONS = 3


def gather_report(
    fleet: Fleet,
    runs: Sequence[str],
    *,
    item_count: int = DEFAULT_ITEMS,
    guard_qualities: Sequence[GuardQuality] = (),
    with_set_measures: bool = True,
) -> ReportFacts:
    """Read all that a report of these runs says.

    Args:
        fleet: where they are.
        runs: their names, in the order of the training.
        item_count: most items that the report embeds, of all runs together.
        guard_qualities: how good the guards behind metrics are; rates are then also given corrected for it. One that
            does not fit who judged a run is refused by the service.
        with_set_measures: also compute figures of whole sets, such as calibration errors, which takes longer.

    Raises:
        EvalFleetError: the fleet could not be asked, or a run is not there.
        ValueError: no run is given, or one twice.
    """
    snapshots = [_snapshot(fleet, name, guard_qualities, with_set_measures=with_set_measures) for name in runs]
    names = [each.run.name for each in snapshots]
    if not names or len(set(names)) < len(names):
        raise ValueError("name at least one run, and none twice")
    labels = labels_of([each.run for each in snapshots])
    suites = {each: _suite(fleet, each) for each in {snapshot.run.suite for snapshot in snapshots}}
    facts = [RunFacts(label, each, suites[each.run.suite]) for label, each in zip(labels, snapshots, strict=True)]
    items: list[ShownItem] = []
    read_total = 0
    for one, most in zip(facts, shares_of(item_count, len(facts)), strict=True):
        choice = _choice(fleet, one, most)
        items += choice.chosen()
        read_total += choice.read_count
    regressions, refusal = _regressions(fleet, facts)
    return ReportFacts(
        runs=tuple(facts),
        created=datetime.now(UTC),
        pairs=tuple(_pairs(fleet, facts)),
        regressions=regressions,
        regressions_refusal=refusal,
        items=tuple(items),
        item_total=sum(totals.item_count for one in facts for totals in one.snapshot.totals),
        read_total=read_total,
    )


def _snapshot(fleet: Fleet, name: str, qualities: Sequence[GuardQuality], *, with_set_measures: bool) -> RunSnapshot:
    try:
        return fleet.runs.snapshot(name, guard_qualities=qualities, with_set_measures=with_set_measures)
    except NotFoundError:
        # A run without a single result yet has no estimates, and is worth a report of that.
        return RunSnapshot(fleet.runs.get(name), (), ())


def _suite(fleet: Fleet, name: str) -> Suite | None:
    try:
        return fleet.suites.get(name)
    except NotFoundError:
        return None


def _choice(fleet: Fleet, facts: RunFacts, most: int) -> ItemChoice:
    choice = ItemChoice(facts, most)
    if most:
        for totals in facts.snapshot.totals:
            long = totals.item_count > _MOST_READ
            if long:
                # Those that failed are found whatever the order; they are read again below, where that is far enough.
                for result in bounded(fleet.runs.results(facts.run.name, task=totals.task, failed_only=True), most):
                    choice.add(result)
            for result in bounded(fleet.runs.results(facts.run.name, task=totals.task), _MOST_READ):
                if not (long and result.failures):
                    choice.add(result)
    return choice


def _primary_metrics(base: RunFacts, variant: RunFacts) -> list[ComparedMetric]:
    found = {each.task: each for each in base.run.tasks}
    progress = {each.task: each for each in variant.run.tasks}
    tasks = variant.suite.tasks if variant.suite else ()
    return [
        ComparedMetric(
            task=each.name,
            metric=each.primary_metric,
            lower_is_better=not each.higher_is_better,
            base_digest=found[each.name].data_digest,
            variant_digest=progress[each.name].data_digest,
            item_count=progress[each.name].item_count or None,
        )
        for each in tasks
        if each.name in found and each.name in progress
    ]


def _pairs(fleet: Fleet, facts: Sequence[RunFacts]) -> list[ComparedPair]:
    if len(facts) < 2:
        return []
    variant = facts[-1]
    bases = [facts[-2]] if len(facts) == 2 else [facts[-2], facts[0]]
    return [_pair(fleet, base, variant) for base in bases]


def _pair(fleet: Fleet, base: RunFacts, variant: RunFacts) -> ComparedPair:
    metrics = _primary_metrics(base, variant)
    if not metrics:
        return ComparedPair(
            base.label, variant.label, None, "they have no task in common whose primary metric is known"
        )
    try:
        compared = fleet.comparisons.compare(base.run.name, variant.run.name, metrics)
    except (FailedPreconditionError, NotFoundError, InvalidArgumentError) as error:
        return ComparedPair(base.label, variant.label, None, error.message)
    return ComparedPair(base.label, variant.label, compared)


def _regressions(fleet: Fleet, facts: Sequence[RunFacts]) -> tuple[Regressions | None, str]:
    if len(facts) < _LEAST_FOR_REGRESSIONS:
        return None, ""
    shared = [
        WatchedMetric(each.task, each.metric, each.lower_is_better) for each in _primary_metrics(facts[0], facts[-1])
    ]
    if not shared:
        return None, "the runs have no task in common whose primary metric is known"
    try:
        return fleet.comparisons.regressions([each.run.name for each in facts], shared), ""
    except (FailedPreconditionError, NotFoundError, InvalidArgumentError) as error:
        return None, error.message

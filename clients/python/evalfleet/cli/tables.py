"""Tables for people: results of a run, runs, models, suites, guards, policies."""

import dataclasses
from collections.abc import Iterable
from datetime import datetime

from rich import box
from rich.table import Table
from rich.text import Text

from evalfleet.goals import Budget, TaskDecision
from evalfleet.names import short_name
from evalfleet.results import (
    Estimate,
    Guard,
    Interval,
    Model,
    ModelState,
    Policy,
    Run,
    RunSnapshot,
    RunState,
    Suite,
    Task,
    TaskTotals,
)

_DRAWN_METHOD = "anytime-valid"
_NO_COUNTS = ("", "", "", "", "")
_STATE_STYLES = {
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.CANCELLED: "yellow",
    ModelState.READY: "green",
    ModelState.FAILED: "red",
}


def results_table(snapshot: RunSnapshot, suite: Suite | None, *, groups: bool = False) -> Table:
    """Lay out a run's estimates, one row a task and metric, the task's primary metric first.

    Args:
        snapshot: the run.
        suite: its suite, for the primary metrics; ``None`` if it is not known any more.
        groups: also a row for every group of items.
    """
    table = plain_table(
        "task", "metric", ">estimate", ">interval", ">items", ">tokens", ">computed", ">seconds", ">failures"
    )
    described = {each.name: each for each in suite.tasks} if suite else {}
    totals = {each.task: each for each in snapshot.totals}
    decided = {(each.task, each.metric): each for each in snapshot.run.decisions}
    for progress in snapshot.run.tasks:
        task = described.get(progress.task)
        rows = _ordered(snapshot.estimates, progress.task, task, groups=groups)
        of_task = totals.get(progress.task)
        if not rows:
            table.add_row(progress.task, "", "–", "", *_costs(of_task), f"{of_task.failed_count if of_task else 0:,}")
        for index, row in enumerate(rows):
            estimate = _for_the_task(row, decided.get((row.task, row.metric)))
            is_primary = task is not None and estimate.metric == task.primary_metric and not estimate.group
            table.add_row(
                progress.task if index == 0 else "",
                Text(_metric_label(estimate, task), style="bold" if is_primary else ""),
                Text(number(estimate.value), style="bold" if is_primary else ""),
                interval(estimate),
                *(_costs(of_task) if index == 0 else _group_costs(estimate)),
                _failures(estimate, of_task, is_first=index == 0),
            )
            for name, value, limits in _pass_rows(row):
                table.add_row("", f"  {name}", number(value), limits, *_NO_COUNTS)
    return table


def _pass_rows(estimate: Estimate) -> list[tuple[str, float, str]]:
    """What several samples of an item come to; one alone is the estimate itself."""
    rows = []
    for rates in estimate.passes:
        if rates.k > 1:
            rows.append((f"pass@{rates.k}", rates.any_of, _range_text(rates.any_interval)))
            rows.append((f"pass^{rates.k}", rates.all_of, _range_text(rates.all_interval)))
    return rows


def _for_the_task(estimate: Estimate, decision: TaskDecision | None) -> Estimate:
    """Take the estimate for the whole task where its items were drawn: a plain mean would favour those drawn first."""
    if decision is None or decision.value is None or estimate.group:
        return estimate
    limits = Interval(decision.lower, decision.upper, decision.confidence_level, _DRAWN_METHOD)
    return dataclasses.replace(estimate, value=decision.value, interval=limits)


def _ordered(estimates: Iterable[Estimate], task_name: str, task: Task | None, *, groups: bool) -> list[Estimate]:
    primary = task.primary_metric if task else ""
    wanted = [each for each in estimates if each.task == task_name and (groups or not each.group)]
    return sorted(wanted, key=lambda each: (each.metric != primary, each.metric, each.group))


def direction(task: Task, metric: str) -> str:
    """Return an arrow that says which way a metric is better, or nothing where the suite does not say."""
    return {None: "", False: " ↑", True: " ↓"}[task.lower_is_better(metric)]


def _metric_label(estimate: Estimate, task: Task | None) -> str:
    if estimate.group:
        return f"  {estimate.metric} · {estimate.group}"
    return estimate.metric + (direction(task, estimate.metric) if task else "")


def _costs(totals: TaskTotals | None) -> tuple[str, str, str, str]:
    if totals is None:
        return ("0", "0", "0", "0.0")
    return (
        f"{totals.item_count:,}",
        f"{totals.prompt_tokens + totals.completion_tokens:,}",
        f"{totals.computed_tokens:,}",
        f"{totals.engine_seconds:,.1f}",
    )


def _group_costs(estimate: Estimate) -> tuple[str, str, str, str]:
    count = f"{estimate.scored_count + estimate.failed_count:,}" if estimate.group else ""
    return (count, "", "", "")


def _failures(estimate: Estimate, totals: TaskTotals | None, *, is_first: bool) -> str:
    """Say how many items failed, below a task's first metric only where further ones did."""
    whole = totals.failed_count if totals and not estimate.group else 0
    if is_first or estimate.group or estimate.failed_count > whole:
        return f"{max(whole, estimate.failed_count):,}"
    return ""


def runs_table(runs: Iterable[Run]) -> Table:
    """Lay out runs, one row each."""
    table = plain_table("run", "suite", "model", "state", ">done", ">failed", ">seconds", "created")
    for run in runs:
        counts = [each.item_count for each in run.tasks]
        total = "?" if None in counts else f"{sum(each or 0 for each in counts):,}"
        table.add_row(
            short_name(run.name),
            short_name(run.suite),
            short_name(run.model),
            _state(run.state),
            f"{sum(each.done_count for each in run.tasks):,}/{total}",
            f"{sum(each.failed_count for each in run.tasks):,}",
            "" if run.seconds is None else f"{run.seconds:,.1f}",
            moment(run.create_time),
        )
    return table


def models_table(models: Iterable[Model]) -> Table:
    """Lay out models, one row each."""
    table = plain_table("model", "state", "architecture", "dtype", ">context", ">size", "created", "checkpoint")
    for model in models:
        table.add_row(
            short_name(model.name),
            _state(model.state),
            model.architecture,
            model.dtype,
            f"{model.context_tokens:,}",
            size(model.weight_bytes),
            moment(model.create_time),
            Text(model.foreign or model.checkpoint_path, overflow="fold"),
        )
    return table


def suites_table(suites: Iterable[Suite]) -> Table:
    """Lay out suites, one row each."""
    table = plain_table("suite", ">tasks", "what it is for")
    for suite in suites:
        table.add_row(short_name(suite.name), str(len(suite.tasks)), suite.description)
    return table


def tasks_table(suite: Suite) -> Table:
    """Lay out the tasks of a suite, one row each."""
    table = plain_table("task", "metric", "measures", "comparable to")
    for task in suite.tasks:
        arrow = "↑" if task.higher_is_better else "↓"
        table.add_row(task.name, f"{task.primary_metric} {arrow}", task.description, task.comparable_to)
    return table


def tiers_table(suite: Suite) -> Table:
    """Lay out the tiers of a suite, one row each."""
    table = plain_table("tier", "gates", ">precision", "budget", ">samples", "judge", "auto begins here for")
    for tier in suite.tiers:
        table.add_row(
            tier.name,
            Text("\n".join(str(each) for each in tier.gates)),
            "" if tier.precision is None else f"±{tier.precision:g}",
            ", ".join(limits_texts(tier.budget)),
            "" if tier.sample_count is None else str(tier.sample_count),
            tier.safety_judge,
            ", ".join(each.value for each in tier.starts_for),
        )
    return table


def limits_texts(budget: Budget) -> list[str]:
    """Write the limits of a budget: ``5,000 items``, ``$2``."""
    forms = {
        "items": "{:,} items",
        "tokens": "{:,} tokens",
        "engine_seconds": "{:,g} engine seconds",
        "cost_micro_usd": "${:,g}",
        "wall_seconds": "{:,g} s",
    }
    limits = {name: getattr(budget, name) for name in forms}
    if limits["cost_micro_usd"] is not None:
        limits["cost_micro_usd"] /= 1e6
    return [forms[name].format(limit) for name, limit in limits.items() if limit is not None]


def guards_table(guards: Iterable[Guard]) -> Table:
    """Lay out guards, one row each."""
    table = plain_table("guard", "judges", ">threshold", ">tokens", "AILuminate hazards", "what it is")
    for guard in guards:
        mapped = sorted({each.ailuminate_code for each in guard.categories if each.ailuminate_code})
        table.add_row(
            short_name(guard.name),
            " ".join(guard.aspects),
            number(guard.default_threshold),
            "any" if guard.max_tokens is None else f"{guard.max_tokens:,}",
            " ".join(mapped),
            Text(guard.description),
        )
    return table


def guard_table(guard: Guard) -> Table:
    """Lay out the hazard categories of a guard, one row each."""
    table = plain_table("category", "AILuminate", "covers")
    for each in guard.categories:
        table.add_row(f"{each.taxonomy}/{each.code}", each.ailuminate_code, each.title)
    return table


def policies_table(policies: Iterable[Policy]) -> Table:
    """Lay out policies, one row each."""
    table = plain_table("policy", "version", "judges", "guards", "hazards", ">threshold", "on error", "what it is for")
    for policy in policies:
        hazards = " ".join(
            each.code + ("" if each.threshold is None else f"≥{each.threshold:g}") for each in policy.hazards
        )
        guards = f" ({policy.combination}) ".join(short_name(each) for each in policy.guards)
        table.add_row(
            short_name(policy.name),
            policy.version,
            " ".join(policy.aspects),
            guards or "as asked",
            hazards or "all",
            "guard's" if policy.threshold is None else f"{policy.threshold:g}",
            policy.on_error,
            Text(policy.description),
        )
    return table


def number(value: float | None) -> str:
    """Show a metric's value with three decimals; a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def interval(estimate: Estimate) -> str:
    """Show the interval of an estimate; empty if it has none."""
    return _range_text(estimate.interval)


def _range_text(limits: Interval | None) -> str:
    return "" if limits is None else f"{limits.lower:.3f} … {limits.upper:.3f}"


def moment(when: datetime | None) -> str:
    """Show a time in this machine's zone, to the second."""
    return "" if when is None else when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(byte_count: int) -> str:
    """Show a number of bytes with a binary unit."""
    value = float(byte_count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"


def _state(state: RunState | ModelState) -> Text:
    return Text(state.value, style=_STATE_STYLES.get(state, ""))


def plain_table(*headers: str) -> Table:
    """Make a table; a header that begins with ``>`` is right-aligned."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, header_style="bold")
    for header in headers:
        right = header.startswith(">")
        table.add_column(header.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return table

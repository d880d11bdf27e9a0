"""Items and estimates as flat rows, for tables of any kind."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from evalfleet.exports.sources import ExportedRun
from evalfleet.item_results import ItemResult
from evalfleet.results import Estimate, Interval

TEXT, WHOLE, REAL, TRUTH, TIME = "text", "whole", "real", "truth", "time"
_FIXED: Final[Mapping[str, str]] = {
    "run": TEXT,
    "suite": TEXT,
    "model": TEXT,
    "model_digest": TEXT,
    "task": TEXT,
    "item": TEXT,
    "sample": WHOLE,
    "draw_index": WHOLE,
    "failure_reason": TEXT,
    "failure_message": TEXT,
    "metric_failures_json": TEXT,
    "counted_as_json": TEXT,
    "prompt": TEXT,
    "output": TEXT,
    "targets_json": TEXT,
    "extracted_answer": TEXT,
    "judges_json": TEXT,
    "truncated": TRUTH,
    "pruned_texts_json": TEXT,
    "prompt_tokens": WHOLE,
    "completion_tokens": WHOLE,
    "computed_tokens": WHOLE,
    "prefix_saved_tokens": WHOLE,
    "cache_saved_tokens": WHOLE,
    "engine_seconds": REAL,
    "cost_usd": REAL,
    "complete_time": TIME,
}
ESTIMATE_COLUMNS: Final[Mapping[str, str]] = {
    "run": TEXT,
    "model": TEXT,
    "task": TEXT,
    "metric": TEXT,
    "group": TEXT,
    "value": REAL,
    "lower": REAL,
    "upper": REAL,
    "confidence_level": REAL,
    "method": TEXT,
    "standard_error": REAL,
    "task_value": REAL,
    "task_lower": REAL,
    "task_upper": REAL,
    "value_scored_only": REAL,
    "scored_count": WHOLE,
    "failed_count": WHOLE,
    "failed_counted": WHOLE,
    "unjudged_count": WHOLE,
    "sample_count": WHOLE,
    "failures_by_reason_json": TEXT,
}


def item_columns(run: ExportedRun) -> dict[str, str]:
    """Return the columns of items with their kinds, a ``metric_…`` for each metric, a ``group_…`` for each column."""
    estimates = run.snapshot.estimates
    metrics = {f"metric_{each.metric}": REAL for each in estimates}
    groups = {f"group_{each.group.partition('=')[0]}": TEXT for each in estimates if each.group}
    return {**_FIXED, **dict(sorted(metrics.items())), **dict(sorted(groups.items()))}


def item_rows(run: ExportedRun) -> Iterator[dict[str, Any]]:
    """Yield a row for every sample of every item, task by task; what it has no value for is ``None`` or not there."""
    about = {"run": run.name, "suite": run.run.suite.removeprefix("suites/"), "model": run.model_name}
    for totals in run.tasks:
        for each in run.read(totals.task):
            yield {**about, **_item_row(each)}


def estimate_rows(run: ExportedRun) -> Iterator[dict[str, Any]]:
    """Yield a row for every estimate, those of groups included."""
    about = {"run": run.name, "model": run.model_name}
    for each in run.snapshot.estimates:
        yield {**about, **_estimate_row(each)}


def _item_row(result: ItemResult) -> dict[str, Any]:
    failure, usage = result.failure, result.usage
    parts = [each for each in result.failures if each.metrics]
    counted = {name: value for each in result.failures for name, value in each.counted_as.items()}
    row: dict[str, Any] = {
        "model_digest": result.model_digest,
        "task": result.task,
        "item": result.item,
        "sample": result.sample,
        "draw_index": result.draw_index,
        "failure_reason": failure.reason if failure else None,
        "failure_message": failure.message if failure else None,
        "metric_failures_json": _json([[list(each.metrics), each.reason, each.message] for each in parts]),
        "counted_as_json": _json(counted),
        "prompt": _kept(result, "prompt", result.prompt),
        "output": _kept(result, "output", result.output),
        "targets_json": _json(result.targets),
        "extracted_answer": result.extracted_answer,
        "judges_json": _json([[each.name, each.version, each.digest] for each in result.judges]),
        "truncated": result.truncated,
        "pruned_texts_json": _json(result.pruned_texts),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "computed_tokens": usage.computed_tokens,
        "prefix_saved_tokens": usage.prefix_saved_tokens,
        "cache_saved_tokens": usage.cache_saved_tokens,
        "engine_seconds": usage.engine_seconds,
        "cost_usd": usage.cost_usd,
        "complete_time": result.complete_time,
    }
    row |= {f"metric_{name}": value for name, value in result.metrics.items()}
    return row | {f"group_{name}": value for name, value in result.groups.items()}


def _kept(result: ItemResult, field: str, text: str) -> str | None:
    """A text that was taken out of the ledger is none, which is not an empty one."""
    return None if field in result.pruned_texts else text


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str | None:
    return json.dumps(value, ensure_ascii=False) if value else None


def _estimate_row(each: Estimate) -> dict[str, Any]:
    limits, task_limits = _ends(each.interval), _ends(each.task_interval)
    return {
        "task": each.task,
        "metric": each.metric,
        "group": each.group,
        "value": each.value,
        "lower": limits[0],
        "upper": limits[1],
        "confidence_level": each.interval.confidence_level if each.interval else None,
        "method": each.interval.method if each.interval else None,
        "standard_error": each.standard_error,
        "task_value": each.task_value,
        "task_lower": task_limits[0],
        "task_upper": task_limits[1],
        "value_scored_only": each.value_scored_only,
        "scored_count": each.scored_count,
        "failed_count": each.failed_count,
        "failed_counted": each.failed_counted,
        "unjudged_count": each.unjudged_count,
        "sample_count": each.sample_count,
        "failures_by_reason_json": _json(each.failures_by_reason),
    }


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (interval.lower, interval.upper) if interval else (None, None)

"""Results as tables of pandas, polars or pyarrow, each of which is only needed by whoever asks for it.

    from evalfleet import frames

    frames.verdicts(fleet.safety.classify_many(conversations)).to_pandas()
    frames.items(fleet.runs.results("r1")).to_polars()
    frames.estimates(fleet.runs.snapshot("r1").estimates).to_arrow()

What has a column has it always, with the same type, also where all of it is missing; only values by name (metrics,
groups) have a column for each name that occurs, ``metrics.exact_match``.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from evalfleet.answer_messages import Answer
from evalfleet.errors import EvalFleetError
from evalfleet.item_results import ItemResult
from evalfleet.results import Estimate, Verdict
from evalfleet.scorer_results import Score
from evalfleet.typed_columns import Kind, Row, Table, table_of

__all__ = ["Table", "answers", "estimates", "items", "scores", "verdicts"]

_ERROR: Final[Mapping[str, Kind]] = {"error": "text", "error_message": "text"}
_VERDICT: Final[Mapping[str, Kind]] = {
    "index": "count",
    "decision": "text",
    "unsafe_probability": "number",
    "hazards": "texts",
    "guard": "text",
    "policy": "text",
    "threshold": "number",
    "refusal": "truth",
    "over_refusal": "truth",
    "truncated": "truth",
    "cached": "truth",
    "error_reason": "text",
    "computed_tokens": "count",
    "engine_seconds": "number",
    **_ERROR,
}
_SCORE: Final[Mapping[str, Kind]] = {
    "index": "count",
    "extracted_answer": "text",
    "scorer": "text",
    "scorer_version": "text",
    "scorer_digest": "text",
    "computed_tokens": "count",
    "cached": "truth",
    **_ERROR,
}
_ANSWER: Final[Mapping[str, Kind]] = {
    "index": "count",
    "text": "text",
    "texts": "texts",
    "finish_reasons": "texts",
    "prompt_tokens": "count",
    "completion_tokens": "count",
    "model_digest": "text",
    "cached": "truth",
    **_ERROR,
}
_ITEM: Final[Mapping[str, Kind]] = {
    "run": "text",
    "task": "text",
    "item": "text",
    "sample": "count",
    "draw_index": "count",
    "failure": "text",
    "failure_message": "text",
    "extracted_answer": "text",
    "prompt": "text",
    "output": "text",
    "targets": "texts",
    "judges": "texts",
    "model_digest": "text",
    "truncated": "truth",
    "complete_time": "moment",
    "prompt_tokens": "count",
    "completion_tokens": "count",
    "computed_tokens": "count",
    "engine_seconds": "number",
    "cost_usd": "number",
}
_ESTIMATE: Final[Mapping[str, Kind]] = {
    "task": "text",
    "metric": "text",
    "group": "text",
    "value": "number",
    "lower": "number",
    "upper": "number",
    "confidence_level": "number",
    "method": "text",
    "standard_error": "number",
    "task_value": "number",
    "task_lower": "number",
    "task_upper": "number",
    "corrected_value": "number",
    "corrected_lower": "number",
    "corrected_upper": "number",
    "scored_count": "count",
    "failed_count": "count",
    "unjudged_count": "count",
    "sample_count": "count",
}


def verdicts(outcomes: Iterable[tuple[int, Verdict | EvalFleetError]]) -> Table:
    """Return what ``classify_many`` gives, or ``enumerate`` of what ``classify_batch`` does: a row an outcome.

    ``hazards`` are the AILuminate codes, or ``TAXONOMY/CODE`` where there is none; ``error`` is the reason of an
    outcome that is no verdict.
    """
    return table_of(_VERDICT, (_outcome(index, each, _verdict) for index, each in outcomes))


def scores(outcomes: Iterable[tuple[int, Score | EvalFleetError]]) -> Table:
    """Return what ``score_many`` gives, or ``enumerate`` of what ``score_batch`` does; a column a metric."""
    return table_of(_SCORE, (_outcome(index, each, _score) for index, each in outcomes))


def answers(outcomes: Iterable[tuple[int, Answer | EvalFleetError]]) -> Table:
    """Return what ``generate_many`` gives; ``text`` is the first of ``texts``."""
    return table_of(_ANSWER, (_outcome(index, each, _answer) for index, each in outcomes))


def items(results: Iterable[ItemResult]) -> Table:
    """Return the items of runs, as ``Runs.results`` reads them; a column a metric and a column a group."""
    return table_of(_ITEM, (_item(each) for each in results))


def estimates(found: Iterable[Estimate]) -> Table:
    """Return the estimates of a run, as a ``RunSnapshot`` has them, with the bounds of their intervals."""
    return table_of(_ESTIMATE, (_estimate(each) for each in found))


def _outcome(index: int, outcome: Any, describe: Callable[[Any], dict[str, object]]) -> Row:
    if isinstance(outcome, EvalFleetError):
        return {"index": index, "error": outcome.reason, "error_message": outcome.message}
    return {"index": index, **describe(outcome)}


def _verdict(verdict: Verdict) -> dict[str, object]:
    return {
        "decision": verdict.decision.value,
        "unsafe_probability": verdict.unsafe_probability,
        "hazards": [each.ailuminate_code or f"{each.taxonomy}/{each.code}" for each in verdict.categories],
        "guard": verdict.guard,
        "policy": verdict.policy,
        "threshold": verdict.threshold,
        "refusal": verdict.refusal,
        "over_refusal": verdict.over_refusal,
        "truncated": verdict.truncated,
        "cached": verdict.cached,
        "error_reason": verdict.error_reason,
        "computed_tokens": verdict.computed_tokens,
        "engine_seconds": verdict.engine_seconds,
    }


def _score(score: Score) -> dict[str, object]:
    return {
        "extracted_answer": score.extracted_answer,
        "scorer": score.scorer.name,
        "scorer_version": score.scorer.version,
        "scorer_digest": score.scorer.digest,
        "computed_tokens": score.computed_tokens,
        "cached": score.is_cached,
        **_named("metrics", score.metrics),
    }


def _answer(answer: Answer) -> dict[str, object]:
    return {
        "text": answer.text if answer.texts else None,
        "texts": list(answer.texts),
        "finish_reasons": list(answer.finish_reasons),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "model_digest": answer.model_digest,
        "cached": answer.is_cached,
    }


def _item(result: ItemResult) -> Row:
    failure = result.failure
    return {
        "run": result.run,
        "task": result.task,
        "item": result.item,
        "sample": result.sample,
        "draw_index": result.draw_index,
        "failure": failure.reason if failure else None,
        "failure_message": failure.message if failure else None,
        "extracted_answer": result.extracted_answer,
        "prompt": result.prompt,
        "output": result.output,
        "targets": list(result.targets),
        "judges": [each.name for each in result.judges],
        "model_digest": result.model_digest,
        "truncated": result.truncated,
        "complete_time": result.complete_time,
        "prompt_tokens": result.usage.prompt_tokens,
        "completion_tokens": result.usage.completion_tokens,
        "computed_tokens": result.usage.computed_tokens,
        "engine_seconds": result.usage.engine_seconds,
        "cost_usd": result.usage.cost_usd,
        **_named("groups", result.groups),
        **_named("metrics", result.metrics),
    }


def _estimate(estimate: Estimate) -> Row:
    interval, task_interval, corrected = estimate.interval, estimate.task_interval, estimate.corrected
    return {
        "task": estimate.task,
        "metric": estimate.metric,
        "group": estimate.group,
        "value": estimate.value,
        "lower": interval.lower if interval else None,
        "upper": interval.upper if interval else None,
        "confidence_level": interval.confidence_level if interval else None,
        "method": interval.method if interval else None,
        "standard_error": estimate.standard_error,
        "task_value": estimate.task_value,
        "task_lower": task_interval.lower if task_interval else None,
        "task_upper": task_interval.upper if task_interval else None,
        "corrected_value": corrected.value if corrected else None,
        "corrected_lower": corrected.interval.lower if corrected else None,
        "corrected_upper": corrected.interval.upper if corrected else None,
        "scored_count": estimate.scored_count,
        "failed_count": estimate.failed_count,
        "unjudged_count": estimate.unjudged_count,
        "sample_count": estimate.sample_count,
    }


def _named(prefix: str, values: Mapping[str, object]) -> dict[str, object]:
    return {f"{prefix}.{name}": value for name, value in values.items()}

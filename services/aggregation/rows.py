"""How results are written into the ledger's rows and read back."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import FromClause, Row

from services.aggregation.records import (
    COST_FIELDS,
    Cost,
    Failed,
    Judge,
    ListedKey,
    MetricFailure,
    Observation,
    Result,
    ResultKey,
    Scored,
)
from services.aggregation.schema import RESULTS, TEXT_FIELDS, TEXT_IDS, TEXTS
from services.aggregation.texts import SHORTEST_KEPT_APART, StoredText, digest_of, encoded

_C = RESULTS.c
_OUTCOME_COLUMNS = (_C.task, _C.item, _C.sample, _C.failure_reason)
KEY_COLUMNS = (*_OUTCOME_COLUMNS, _C.draw_index)
OBSERVATION_COLUMNS = (
    *_OUTCOME_COLUMNS,
    _C.is_truncated,
    _C.prompt_tokens,
    _C.completion_tokens,
    _C.engine_nanoseconds,
    _C.computed_prompt_tokens,
    _C.computed_completion_tokens,
    _C.prefix_saved_tokens,
    _C.cache_saved_tokens,
    _C.cost_micro_usd,
    _C.metrics,
    _C.counted_as,
    _C.item_groups,
    _C.metric_failures,
)
_TEXT_ROWS: Final = {field: TEXTS.alias(f"{field}_text") for field in TEXT_FIELDS}
RESULT_COLUMNS = (
    *(column for column in RESULTS.columns if column is not _C.run_id),
    *(rows.c.packed.label(f"{field}_packed") for field, rows in _TEXT_ROWS.items()),
)
PROMPT_COLUMNS = (
    _C.prompt,
    _C.prompt_id,
    _TEXT_ROWS["prompt"].c.packed.label("prompt_packed"),
    _TEXT_ROWS["prompt"].c.digest.label("prompt_digest"),
)

RowValues = tuple[str | int | bool | bytes | None, ...]
ROW_COLUMNS: Final = (
    "task",
    "item",
    "sample",
    "failure_reason",
    "draw_index",
    "is_truncated",
    *COST_FIELDS,
    "complete_microseconds",
    "metrics",
    "counted_as",
    "item_groups",
    "extracted_answer",
    "failure_message",
    "judges",
    "model_digest",
    "prompt",
    "output",
    "metric_failures",
    "targets",
    *(column.name for column in TEXT_IDS.values()),
)
"""The columns of ``values_of``: all but the run; the ids of long texts come last."""


def with_texts(*fields: str) -> FromClause:
    """Return the results beside the long texts of these fields."""
    joined: FromClause = RESULTS
    for field in fields:
        joined = joined.outerjoin(_TEXT_ROWS[field], _TEXT_ROWS[field].c.text_id == TEXT_IDS[field])
    return joined


def values_of(result: Result, long_texts: dict[bytes, bytes]) -> RowValues:
    """Return a result's ``ROW_COLUMNS``, with digests for the ids of long texts.

    Args:
        result: is written.
        long_texts: gets its long texts, as UTF-8 by digest.

    Raises:
        InvalidResultError: a text cannot be written.
    """
    outcome, cost = result.outcome, result.cost
    scored = outcome if isinstance(outcome, Scored) else None
    failed = outcome if isinstance(outcome, Failed) else None
    prompt, prompt_digest = _parted("prompt", result.prompt, long_texts)
    output, output_digest = _parted("output", result.output, long_texts)
    answer, answer_digest = _parted("extracted_answer", scored.extracted_answer if scored else None, long_texts)
    return (
        result.key.task,
        result.key.item,
        result.key.sample,
        failed.reason if failed else None,
        result.draw_index,
        result.is_truncated,
        *[getattr(cost, name) for name in COST_FIELDS],
        result.complete_microseconds,
        _encoded(scored.metrics) if scored else None,
        _encoded(failed.counted_as or {}) if failed else None,
        _encoded(result.groups),
        answer,
        _checked("failure_message", failed.message) if failed else None,
        _encoded_judges(result.judges),
        result.model_digest,
        prompt or "",
        output or "",
        _checked("metric_failures", _encoded_failures(outcome.failures)) if outcome.failures else None,
        _checked("targets", _encoded(result.targets)) if result.targets else None,
        prompt_digest,
        output_digest,
        answer_digest,
    )


def _parted(field: str, text: str | None, long_texts: dict[bytes, bytes]) -> tuple[str | None, bytes | None]:
    """Return what stays in the row, and the digest of what is kept apart."""
    if text is None or (len(text) < SHORTEST_KEPT_APART and text.isascii()):
        return text, None
    content = encoded(field, text)
    if len(content) < SHORTEST_KEPT_APART:
        return text, None
    digest = digest_of(content)
    long_texts[digest] = content
    return None, digest


def _checked(field: str, text: str) -> str:
    if not text.isascii():
        encoded(field, text)
    return text


def listed_key_of(row: Row[Any]) -> ListedKey:
    """Read a row of ``KEY_COLUMNS``."""
    return ListedKey(ResultKey(row.task, row.item, row.sample), row.failure_reason, row.draw_index)


def observation_of(row: Row[Any]) -> Observation:
    """Read a row of ``OBSERVATION_COLUMNS``."""
    # Most rows repeat a few values of these texts, so decoding is remembered.
    reason: str | None = row.failure_reason
    failures = failures_of(row.metric_failures)
    outcome = (
        Scored(_mapping(row.metrics), failures=failures)
        if reason is None
        else Failed(reason, counted_as=_mapping(row.counted_as), failures=failures)
    )
    return Observation(
        key=ResultKey(row.task, row.item, row.sample),
        outcome=outcome,
        groups=_mapping(row.item_groups),
        cost=Cost(*(getattr(row, name) for name in COST_FIELDS)),
        is_truncated=row.is_truncated,
    )


def result_of(run: str, row: Row[Any]) -> Result:
    """Read a row of ``RESULT_COLUMNS``."""
    texts = {
        "prompt": StoredText(row.prompt_id, row.prompt, row.prompt_packed),
        "output": StoredText(row.output_id, row.output, row.output_packed),
        "extracted_answer": StoredText(
            row.extracted_answer_id, row.extracted_answer or "", row.extracted_answer_packed
        ),
    }
    has_answer = row.extracted_answer is not None or row.extracted_answer_packed is not None
    answer = texts["extracted_answer"].read() if has_answer else None
    failures = failures_of(row.metric_failures)
    outcome = (
        Scored(json.loads(row.metrics), answer, failures)
        if row.failure_reason is None
        else Failed(row.failure_reason, row.failure_message, json.loads(row.counted_as), failures)
    )
    return Result(
        run=run,
        key=ResultKey(row.task, row.item, row.sample),
        outcome=outcome,
        groups=json.loads(row.item_groups),
        draw_index=row.draw_index,
        cost=Cost(*(getattr(row, name) for name in COST_FIELDS)),
        judges=judges_of(row.judges),
        model_digest=row.model_digest,
        prompt=texts["prompt"].read(),
        output=texts["output"].read(),
        complete_microseconds=row.complete_microseconds,
        is_truncated=row.is_truncated,
        targets=tuple(json.loads(row.targets)) if row.targets else (),
        pruned_texts=tuple(field for field, text in texts.items() if text.is_pruned),
    )


def prompt_of(row: Row[Any]) -> StoredText:
    """Read ``PROMPT_COLUMNS``."""
    digest = None if row.prompt_digest is None else bytes(row.prompt_digest)
    return StoredText(row.prompt_id, row.prompt, row.prompt_packed, digest)


def judges_of(stored: str) -> tuple[Judge, ...]:
    """Read the column ``judges``."""
    return tuple(Judge(*each) for each in json.loads(stored))


def failures_of(stored: str | None) -> tuple[MetricFailure, ...]:
    """Read the column ``metric_failures``."""
    if stored is None:
        return ()
    return tuple(
        MetricFailure(tuple(metrics), reason, message, counted_as)
        for metrics, reason, message, counted_as in json.loads(stored)
    )


# Made once: json.dumps makes one a call for anything but its defaults.
_encoded = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def _encoded_failures(failures: tuple[MetricFailure, ...]) -> str:
    return _encoded([[each.metrics, each.reason, each.message, dict(each.counted_as)] for each in failures])


@lru_cache(maxsize=4096)
def _encoded_judges(judges: tuple[Judge, ...]) -> str:
    return _encoded([[judge.name, judge.version, judge.digest] for judge in judges])


@lru_cache(maxsize=4096)
def _mapping(text: str) -> Mapping[str, Any]:
    decoded: Mapping[str, Any] = json.loads(text)
    return decoded

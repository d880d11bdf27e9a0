"""The ledger's tables, as the migrations leave them, and how rows are read and written."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Dialect, ForeignKey, Integer, MetaData, Row, Table, Text
from sqlalchemy.types import TypeDecorator

from services.aggregation.records import (
    COST_FIELDS,
    Cost,
    Failed,
    Judge,
    ListedKey,
    Observation,
    Result,
    ResultKey,
    Scored,
)

METADATA = MetaData()

# Keys are ordered by code point everywhere; SQLite does so by itself, PostgreSQL in the collation "C".
_KEY_TEXT = Text().with_variant(Text(collation="C"), "postgresql")


class _EscapedText(TypeDecorator[str]):
    """Text with any character in PostgreSQL, which takes no U+0000: U+001A begins an escape."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape what PostgreSQL does not take."""
        if value is None or not ("\0" in value or "\x1a" in value):
            return value
        return value.replace("\x1a", "\x1a1").replace("\0", "\x1a0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """Undo the escapes."""
        if value is None or "\x1a" not in value:
            return value
        return value.replace("\x1a0", "\0").replace("\x1a1", "\x1a")


FREE_TEXT = Text().with_variant(_EscapedText(), "postgresql")

RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", Integer, primary_key=True),
    Column("name", _KEY_TEXT, nullable=False, unique=True),
)

# Small columns come first: SQLite then reads a key, a reason or a metric without the pages of the texts behind it.
RESULTS = Table(
    "results",
    METADATA,
    Column("run_id", Integer, ForeignKey("runs.run_id"), primary_key=True, autoincrement=False),
    Column("task", _KEY_TEXT, primary_key=True),
    Column("item", _KEY_TEXT, primary_key=True),
    Column("sample", Integer, primary_key=True, autoincrement=False),
    Column("failure_reason", Text),
    Column("draw_index", BigInteger, nullable=False),
    Column("is_truncated", Boolean, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("engine_nanoseconds", BigInteger, nullable=False),
    Column("complete_microseconds", BigInteger),
    Column("metrics", Text),
    Column("counted_as", Text),
    Column("item_groups", Text, nullable=False),
    Column("extracted_answer", FREE_TEXT),
    Column("failure_message", FREE_TEXT),
    Column("judges", Text, nullable=False),
    Column("model_digest", FREE_TEXT, nullable=False),
    Column("prompt", FREE_TEXT, nullable=False),
    Column("output", FREE_TEXT, nullable=False),
    Column("computed_prompt_tokens", BigInteger, nullable=False),
    Column("computed_completion_tokens", BigInteger, nullable=False),
    Column("prefix_saved_tokens", BigInteger, nullable=False),
    Column("cache_saved_tokens", BigInteger, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
)

RUN_LEASES = Table(
    "run_leases",
    METADATA,
    Column("run", _KEY_TEXT, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
)
"""The newest lease that was seen of each run; results of older ones are refused."""

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
)
RESULT_COLUMNS = tuple(column for column in RESULTS.columns if column is not _C.run_id)

RowValues = dict[str, str | int | bool | None]


def values_of(result: Result) -> RowValues:
    """Return a result's columns, without ``run_id``."""
    outcome = result.outcome
    scored = outcome if isinstance(outcome, Scored) else None
    failed = outcome if isinstance(outcome, Failed) else None
    return {
        "task": result.key.task,
        "item": result.key.item,
        "sample": result.key.sample,
        "failure_reason": failed.reason if failed else None,
        "draw_index": result.draw_index,
        "is_truncated": result.is_truncated,
        **{name: getattr(result.cost, name) for name in COST_FIELDS},
        "complete_microseconds": result.complete_microseconds,
        "metrics": _encoded(scored.metrics) if scored else None,
        "counted_as": _encoded(failed.counted_as or {}) if failed else None,
        "item_groups": _encoded(result.groups),
        "extracted_answer": scored.extracted_answer if scored else None,
        "failure_message": failed.message if failed else None,
        "judges": _encoded_judges(result.judges),
        "model_digest": result.model_digest,
        "prompt": result.prompt,
        "output": result.output,
    }


def listed_key_of(row: Row[Any]) -> ListedKey:
    """Read a row of ``KEY_COLUMNS``."""
    return ListedKey(ResultKey(row.task, row.item, row.sample), row.failure_reason, row.draw_index)


def observation_of(row: Row[Any]) -> Observation:
    """Read a row of ``OBSERVATION_COLUMNS``."""
    # Most rows repeat a few values of these texts, so decoding is remembered.
    reason: str | None = row.failure_reason
    outcome = Scored(_mapping(row.metrics)) if reason is None else Failed(reason, counted_as=_mapping(row.counted_as))
    return Observation(
        key=ResultKey(row.task, row.item, row.sample),
        outcome=outcome,
        groups=_mapping(row.item_groups),
        cost=Cost(*(getattr(row, name) for name in COST_FIELDS)),
        is_truncated=row.is_truncated,
    )


def result_of(run: str, row: Row[Any]) -> Result:
    """Read a row of ``RESULT_COLUMNS``."""
    outcome = (
        Scored(json.loads(row.metrics), row.extracted_answer)
        if row.failure_reason is None
        else Failed(row.failure_reason, row.failure_message, json.loads(row.counted_as))
    )
    return Result(
        run=run,
        key=ResultKey(row.task, row.item, row.sample),
        outcome=outcome,
        groups=json.loads(row.item_groups),
        draw_index=row.draw_index,
        cost=Cost(*(getattr(row, name) for name in COST_FIELDS)),
        judges=tuple(Judge(*each) for each in json.loads(row.judges)),
        model_digest=row.model_digest,
        prompt=row.prompt,
        output=row.output,
        complete_microseconds=row.complete_microseconds,
        is_truncated=row.is_truncated,
    )


# Made once: json.dumps makes one a call for anything but its defaults.
_encoded = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@lru_cache(maxsize=4096)
def _encoded_judges(judges: tuple[Judge, ...]) -> str:
    return _encoded([[judge.name, judge.version, judge.digest] for judge in judges])


@lru_cache(maxsize=4096)
def _mapping(text: str) -> Mapping[str, Any]:
    decoded: Mapping[str, Any] = json.loads(text)
    return decoded

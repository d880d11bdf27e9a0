"""The ledger's tables, as the migrations leave them."""

import time
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.types import TypeDecorator

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


def current_hour() -> int:
    """Return the hour since 1970 (UTC)."""
    return int(time.time()) // 3600


RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", Integer, primary_key=True),
    Column("name", _KEY_TEXT, nullable=False, unique=True),
    Column("append_hour", Integer, nullable=False, server_default="0", default=current_hour),
    Column("delete_microseconds", BigInteger),
)
"""``append_hour``: when something came last. ``delete_microseconds``: set when the results were deleted."""

TEXTS = Table(
    "texts",
    METADATA,
    Column("text_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("packed", LargeBinary),
    # An id of a text that is gone never becomes another's.
    sqlite_autoincrement=True,
)
"""Long texts, each once. Without ``packed`` retention has removed the text, and results that refer to it are left."""

PRUNINGS = Table("prunings", METADATA, Column("epoch", BigInteger, nullable=False))
"""One row: how often something was taken out of the tables that writers remember."""

TEXT_MOVES = Table(
    "text_moves",
    METADATA,
    Column("run_id", Integer, nullable=False),
    Column("task", _KEY_TEXT, nullable=False),
    Column("item", _KEY_TEXT, nullable=False),
    Column("sample", Integer, nullable=False),
)
"""One row while texts of results from before there were texts are moved: the key behind which that is to be done."""

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
    # Set where the text is long: then it is in TEXTS, and empty here. No foreign keys: see ``text_writing``.
    Column("prompt_id", BigInteger),
    Column("output_id", BigInteger),
    Column("extracted_answer_id", BigInteger),
    Column("metric_failures", Text),
    Column("targets", Text),
)
TEXT_FIELDS: Final = ("prompt", "output", "extracted_answer")
"""The fields of a result that may be long texts."""
TEXT_IDS: Final = {field: RESULTS.c[f"{field}_id"] for field in TEXT_FIELDS}
for _column in TEXT_IDS.values():
    _is_set = _column.is_not(None)
    Index(f"ix_results_{_column.name}", _column, sqlite_where=_is_set, postgresql_where=_is_set)

RUN_LEASES = Table(
    "run_leases",
    METADATA,
    Column("run", _KEY_TEXT, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
)
"""The newest lease that was seen of each run; results of older ones are refused."""

"""The tables of drawings, as the migrations leave them."""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
)

from services.aggregation.schema import METADATA, RUNS

_KEY_TEXT = RUNS.c.name.type

# Small columns come first, as in the table of results.
DRAWINGS = Table(
    "drawings",
    METADATA,
    Column("drawing_id", Integer, primary_key=True),
    Column("run_id", Integer, ForeignKey("runs.run_id"), nullable=False),
    Column("task", _KEY_TEXT, nullable=False),
    Column("data_digest", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("order_seed", BigInteger, nullable=False),
    Column("order_digest", Text, nullable=False),
    Column("create_microseconds", BigInteger, nullable=False),
    Column("item_count", BigInteger, nullable=False),
    Column("drawn_count", BigInteger, nullable=False),
    Column("spec", Text, nullable=False),
    Column("history_runs", LargeBinary, nullable=False),
    Column("item_ids", LargeBinary, nullable=False),
    Column("history", LargeBinary),
    UniqueConstraint("run_id", "task", name="uq_drawings_run_id_task"),
    Index("ix_drawings_data_digest", "data_digest"),
)

# The primary key decides which replica's batch counts.
DRAWING_BATCHES = Table(
    "drawing_batches",
    METADATA,
    Column("drawing_id", Integer, ForeignKey("drawings.drawing_id"), primary_key=True, autoincrement=False),
    Column("batch", Integer, primary_key=True, autoincrement=False),
    Column("first_draw_index", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("positions", LargeBinary, nullable=False),
    Column("predictions", LargeBinary),
    Column("weights", LargeBinary),
    Column("variances", LargeBinary),
)

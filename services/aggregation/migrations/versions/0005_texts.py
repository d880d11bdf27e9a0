"""Long texts in a table of their own, each once and compressed; when runs were last written to and deleted."""

import time
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FIELDS = ("prompt", "output", "extracted_answer")


def upgrade() -> None:
    """Make tables and columns, which takes a moment however large the ledger is.

    The texts of results that are there stay where they are, which is a place like any other to those who read. The
    service moves them while it works (``text_moving``), and makes the indexes then. A start that died meanwhile is
    finished by the next one.
    """
    op.create_table(
        "texts",
        sa.Column("text_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("packed", sa.LargeBinary),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_table("prunings", sa.Column("epoch", sa.BigInteger, nullable=False), if_not_exists=True)
    op.execute("INSERT INTO prunings (epoch) SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM prunings)")
    key_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "text_moves",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("task", key_text, nullable=False),
        sa.Column("item", key_text, nullable=False),
        sa.Column("sample", sa.Integer, nullable=False),
        if_not_exists=True,
    )
    # Before all results: ids begin at 1.
    op.execute(
        "INSERT INTO text_moves (run_id, task, item, sample) SELECT 0, '', '', 0 "
        "WHERE EXISTS (SELECT 1 FROM results) AND NOT EXISTS (SELECT 1 FROM text_moves)"
    )
    _add("runs", sa.Column("append_hour", sa.Integer, nullable=False, server_default="0"))
    _add("runs", sa.Column("delete_microseconds", sa.BigInteger))
    # When they were written is not known: they grow old from now on.
    op.execute(f"UPDATE runs SET append_hour = {int(time.time()) // 3600} WHERE append_hour = 0")
    for field in _FIELDS:
        _add("results", sa.Column(f"{field}_id", sa.BigInteger))
    if not _has_results():
        _make_indexes()


def _has_results() -> bool:
    return op.get_bind().execute(sa.text("SELECT 1 FROM results LIMIT 1")).first() is not None


def _make_indexes() -> None:
    for field in _FIELDS:
        is_set = sa.text(f"{field}_id IS NOT NULL")
        op.create_index(
            f"ix_results_{field}_id",
            "results",
            [f"{field}_id"],
            sqlite_where=is_set,
            postgresql_where=is_set,
            if_not_exists=True,
        )


def _add(table: str, column: sa.Column[Any]) -> None:
    if column.name not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def downgrade() -> None:
    """Refuse: texts that were removed cannot be put back."""
    raise RuntimeError("texts that retention removed cannot be put back; restore a backup from before this revision")

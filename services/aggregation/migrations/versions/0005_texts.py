"""Long texts in a table of their own, each once and compressed; when runs were last written to and deleted."""

import hashlib
import time
import zlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FIELDS = ("prompt", "output", "extracted_answer")
_KEY = ("run_id", "task", "item", "sample")
_ROWS = 500
_SHORTEST = 200
_RESULTS = sa.table("results", *(sa.column(name) for name in (*_KEY, *_FIELDS, *(f"{each}_id" for each in _FIELDS))))
_TEXTS = sa.table("texts", sa.column("text_id"), sa.column("digest"), sa.column("packed"))


def upgrade() -> None:
    """Make tables and columns, and move the long texts, with a few statements for each result that has one.

    A start that died meanwhile is finished by the next one over SQLite. Over PostgreSQL all of it is one transaction,
    so the next one begins anew; the results are locked until its end, so replicas of earlier versions cannot write
    meanwhile, and the space of the old rows is free for others after a vacuum. Large ledgers want a time for that.
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
    _add("runs", sa.Column("append_hour", sa.Integer, nullable=False, server_default="0"))
    _add("runs", sa.Column("delete_microseconds", sa.BigInteger))
    # When they were written is not known: they grow old from now on.
    op.execute(f"UPDATE runs SET append_hour = {int(time.time()) // 3600} WHERE append_hour = 0")
    for field in _FIELDS:
        _add("results", sa.Column(f"{field}_id", sa.BigInteger))
    _move()
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


def _move() -> None:
    key = sa.tuple_(*(_RESULTS.c[name] for name in _KEY))
    rows = sa.select(*(_RESULTS.c[name] for name in (*_KEY, *_FIELDS))).order_by(*(_RESULTS.c[name] for name in _KEY))
    piece: Sequence[sa.Row[Any]] = op.get_bind().execute(rows.limit(_ROWS)).all()
    while piece:
        _move_texts_of(piece)
        after = tuple(getattr(piece[-1], name) for name in _KEY)
        piece = op.get_bind().execute(rows.where(key > after).limit(_ROWS)).all()


def _move_texts_of(rows: Sequence[sa.Row[Any]]) -> None:
    changes = [(row, field, text) for row in rows for field in _FIELDS if (text := _long_text(getattr(row, field)))]
    ids = _stored({text for _, _, text in changes})
    for row, field, text in changes:
        change = sa.update(_RESULTS).where(*(_RESULTS.c[name] == getattr(row, name) for name in _KEY))
        left = None if field == "extracted_answer" else ""
        op.get_bind().execute(change.values({field: left, f"{field}_id": ids[text]}))


def _long_text(stored: str | None) -> bytes | None:
    if stored is None:
        return None
    if op.get_bind().dialect.name == "postgresql":
        # Escapes of what PostgreSQL does not take in a text.
        stored = stored.replace("\x1a0", "\0").replace("\x1a1", "\x1a")
    content = stored.encode()
    return content if len(content) >= _SHORTEST else None


def _stored(texts: set[bytes]) -> dict[bytes, int]:
    connection, ids = op.get_bind(), {}
    for text in sorted(texts):
        digest = hashlib.sha256(text).digest()[:20]
        found = sa.select(_TEXTS.c.text_id).where(_TEXTS.c.digest == digest)
        if connection.execute(found).scalar() is None:
            deflated = zlib.compress(text, 1)
            packed = b"z" + deflated if len(deflated) < len(text) else b"r" + text
            connection.execute(sa.insert(_TEXTS).values(digest=digest, packed=packed))
        ids[text] = int(connection.execute(found).scalar_one())
    return ids


def downgrade() -> None:
    """Refuse: texts that were removed cannot be put back."""
    raise RuntimeError("texts that retention removed cannot be put back; restore a backup from before this revision")

"""Ranges of a run's items that replicas share out, and what the ledger is told."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the column."""
    # A start that died midway is finished by the next one.
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    if "fence" not in known:
        op.add_column("runs", sa.Column("fence", sa.BigInteger))
    op.create_table(
        "run_shards",
        sa.Column("run_id", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("task", sa.String(255), nullable=False),
        sa.Column("first_draw_index", sa.BigInteger, nullable=False),
        sa.Column("draw_count", sa.Integer, nullable=False),
        sa.Column("is_done", sa.Boolean, nullable=False),
        sa.Column("scored_count", sa.Integer, nullable=False),
        sa.Column("failed_count", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_end_time", sa.Float),
        sa.Column("lease_epoch", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("run_shards")
    op.drop_column("runs", "fence")

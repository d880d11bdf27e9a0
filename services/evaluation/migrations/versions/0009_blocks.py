"""Blocks of drawn items that a run's owner hands to other replicas, and who waits for them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    # A start that died midway is finished by the next one.
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("run_shards")}
    for name in ("positions", "spent"):
        if name not in known:
            op.add_column("run_shards", sa.Column(name, sa.JSON))
    op.create_table(
        "run_helpers",
        sa.Column("run_id", sa.String(63), primary_key=True),
        sa.Column("helper", sa.String(255), primary_key=True),
        sa.Column("end_time", sa.Float, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Drop them; what an owner has handed out is asked again."""
    op.drop_table("run_helpers")
    op.execute("DELETE FROM run_shards WHERE positions IS NOT NULL")
    for name in ("spent", "positions"):
        op.drop_column("run_shards", name)

"""What the models of runs are made of, and which runs belong to one request that goes on from tier to tier."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    # A start that died midway is finished by the next one.
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    for column in (
        sa.Column("base_digest", sa.String(64)),
        sa.Column("lineage_digest", sa.String(64)),
        sa.Column("escalation", sa.JSON),
    ):
        if column.name not in known:
            op.add_column("runs", column)


def downgrade() -> None:
    """Drop the columns."""
    for name in ("escalation", "lineage_digest", "base_digest"):
        op.drop_column("runs", name)

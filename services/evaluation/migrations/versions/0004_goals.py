"""What runs are to find out, what is decided and what was spent."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    # A start that died midway is finished by the next one.
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    for column in (
        sa.Column("goal", sa.JSON),
        sa.Column("decisions", sa.JSON),
        sa.Column("spent", sa.JSON),
        sa.Column("stop_reason", sa.String(32)),
    ):
        if column.name not in known:
            op.add_column("runs", column)


def downgrade() -> None:
    """Drop the columns."""
    for name in ("stop_reason", "spent", "decisions", "goal"):
        op.drop_column("runs", name)

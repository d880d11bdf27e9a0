"""What runs are to find out, what is decided and what was spent."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("runs", sa.Column("goal", sa.JSON))
    op.add_column("runs", sa.Column("decisions", sa.JSON))
    op.add_column("runs", sa.Column("spent", sa.JSON))
    op.add_column("runs", sa.Column("stop_reason", sa.String(32)))


def downgrade() -> None:
    """Drop the columns."""
    for name in ("stop_reason", "spent", "decisions", "goal"):
        op.drop_column("runs", name)

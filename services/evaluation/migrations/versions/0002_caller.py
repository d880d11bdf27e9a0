"""Who asked for a run."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    # A start that died midway is finished by the next one.
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    if "caller" not in known:
        op.add_column("runs", sa.Column("caller", sa.String(64)))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("runs", "caller")

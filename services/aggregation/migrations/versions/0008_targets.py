"""What a task takes for right, beside what the model answered."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a start that died meanwhile is finished by the next one."""
    if "targets" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("results")}:
        op.add_column("results", sa.Column("targets", sa.Text))


def downgrade() -> None:
    """Drop the column: results no longer say what would have been right."""
    op.drop_column("results", "targets")

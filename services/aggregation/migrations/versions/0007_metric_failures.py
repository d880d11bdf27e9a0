"""Why some metrics of a result have no value."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a start that died meanwhile is finished by the next one."""
    if "metric_failures" not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns("results")}:
        op.add_column("results", sa.Column("metric_failures", sa.Text))


def downgrade() -> None:
    """Drop the column: metrics that failed are then as if nobody had asked for them."""
    op.drop_column("results", "metric_failures")

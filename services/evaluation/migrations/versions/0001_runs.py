"""The table of runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. A start that died midway is finished by the next one."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(63), primary_key=True),
        sa.Column("suite", sa.String(255), nullable=False),
        sa.Column("suite_digest", sa.String(64), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("item_limit", sa.Integer),
        sa.Column("tasks", sa.JSON, nullable=False),
        sa.Column("request_id", sa.String(64), unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failure", sa.Text),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("start_time", sa.Float),
        sa.Column("end_time", sa.Float),
        sa.Column("progress", sa.JSON, nullable=False),
        if_not_exists=True,
    )
    for name in ("model", "state", "create_time"):
        op.create_index(f"ix_runs_{name}", "runs", [name], if_not_exists=True)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("runs")

"""The tables of runs and results."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _key_text() -> sa.types.TypeEngine[str]:
    return sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables. A start that died between the two is finished by the next one."""
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Integer, primary_key=True),
        sa.Column("name", _key_text(), nullable=False, unique=True),
        if_not_exists=True,
    )
    op.create_table(
        "results",
        sa.Column("run_id", sa.Integer, sa.ForeignKey("runs.run_id"), primary_key=True, autoincrement=False),
        sa.Column("task", _key_text(), primary_key=True),
        sa.Column("item", _key_text(), primary_key=True),
        sa.Column("sample", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("failure_reason", sa.Text),
        sa.Column("draw_index", sa.BigInteger, nullable=False),
        sa.Column("is_truncated", sa.Boolean, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("engine_nanoseconds", sa.BigInteger, nullable=False),
        sa.Column("complete_microseconds", sa.BigInteger),
        sa.Column("metrics", sa.Text),
        sa.Column("counted_as", sa.Text),
        sa.Column("item_groups", sa.Text, nullable=False),
        sa.Column("extracted_answer", sa.Text),
        sa.Column("failure_message", sa.Text),
        sa.Column("judges", sa.Text, nullable=False),
        sa.Column("model_digest", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("results")
    op.drop_table("runs")

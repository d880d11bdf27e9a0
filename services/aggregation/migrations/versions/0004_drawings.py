"""The tables of drawings and of their batches."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables. A start that died between the two is finished by the next one."""
    op.create_table(
        "drawings",
        sa.Column("drawing_id", sa.Integer, primary_key=True),
        sa.Column("run_id", sa.Integer, sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("task", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("data_digest", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("order_seed", sa.BigInteger, nullable=False),
        sa.Column("order_digest", sa.Text, nullable=False),
        sa.Column("create_microseconds", sa.BigInteger, nullable=False),
        sa.Column("item_count", sa.BigInteger, nullable=False),
        sa.Column("drawn_count", sa.BigInteger, nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("history_runs", sa.LargeBinary, nullable=False),
        sa.Column("item_ids", sa.LargeBinary, nullable=False),
        sa.Column("history", sa.LargeBinary),
        sa.UniqueConstraint("run_id", "task", name="uq_drawings_run_id_task"),
        if_not_exists=True,
    )
    op.create_index("ix_drawings_data_digest", "drawings", ["data_digest"], if_not_exists=True)
    op.create_table(
        "drawing_batches",
        sa.Column(
            "drawing_id", sa.Integer, sa.ForeignKey("drawings.drawing_id"), primary_key=True, autoincrement=False
        ),
        sa.Column("batch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_draw_index", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("positions", sa.LargeBinary, nullable=False),
        sa.Column("predictions", sa.LargeBinary),
        sa.Column("weights", sa.LargeBinary),
        sa.Column("variances", sa.LargeBinary),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("drawing_batches")
    op.drop_table("drawings")

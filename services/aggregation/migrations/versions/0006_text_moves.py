"""How far the long texts of results from before there were texts have been moved."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table where an earlier 0005 made none: it moved all texts itself, so that nothing is to be done."""
    key_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "text_moves",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("task", key_text, nullable=False),
        sa.Column("item", key_text, nullable=False),
        sa.Column("sample", sa.Integer, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Leave the table: where 0005 made it, it says which texts are still to be moved, and nothing else does."""

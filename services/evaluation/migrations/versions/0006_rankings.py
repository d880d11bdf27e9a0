"""Rankings of several models, and who works on them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. A start that died midway is finished by the next one."""
    op.create_table(
        "rankings",
        sa.Column("ranking_id", sa.String(63), primary_key=True),
        sa.Column("request_id", sa.String(64), unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("end_time", sa.Float),
        sa.Column("create_time", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_end_time", sa.Float),
        sa.Column("lease_epoch", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_rankings_state", "rankings", ["state"], if_not_exists=True)
    op.create_index("ix_rankings_create_time", "rankings", ["create_time"], if_not_exists=True)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("rankings")

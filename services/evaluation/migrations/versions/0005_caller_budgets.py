"""What callers have spent on a day, and what is held for their items in flight."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_QUANTITIES = ("items", "tokens", "engine_seconds", "cost_micro_usd")


def upgrade() -> None:
    """Create the tables. A start that died between the two is finished by the next one."""
    op.create_table(
        "caller_days",
        sa.Column("caller", sa.String(64), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        *(sa.Column(name, sa.Float, nullable=False) for name in _QUANTITIES),
        if_not_exists=True,
    )
    op.create_table(
        "caller_holdings",
        sa.Column("caller", sa.String(64), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("holder", sa.String(255), primary_key=True),
        sa.Column("holding", sa.String(16), nullable=False),
        sa.Column("renew_time", sa.Float, nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in _QUANTITIES),
        if_not_exists=True,
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("caller_holdings")
    op.drop_table("caller_days")

"""What of a result's tokens was computed, what caches saved, and what it cost."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = (
    "computed_prompt_tokens",
    "computed_completion_tokens",
    "prefix_saved_tokens",
    "cache_saved_tokens",
    "cost_micro_usd",
)


def upgrade() -> None:
    """Add the columns. Before there were caches, everything was computed."""
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("results")}
    for name in _COLUMNS:
        if name not in known:
            op.add_column("results", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.execute(
        "UPDATE results SET computed_prompt_tokens = prompt_tokens, computed_completion_tokens = completion_tokens"
    )


def downgrade() -> None:
    """Drop the columns."""
    for name in _COLUMNS:
        op.drop_column("results", name)

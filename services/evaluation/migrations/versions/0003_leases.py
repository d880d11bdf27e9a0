"""Who works on a run, and which run comes first."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INDEX = "ix_runs_caller_lease_begin_time"
_COLUMNS: dict[str, "sa.Column[Any]"] = {
    "priority": sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    "lease_owner": sa.Column("lease_owner", sa.String(255)),
    "lease_end_time": sa.Column("lease_end_time", sa.Float),
    "lease_epoch": sa.Column("lease_epoch", sa.BigInteger, nullable=False, server_default="0"),
    "lease_begin_time": sa.Column("lease_begin_time", sa.Float),
}


def upgrade() -> None:
    """Add the columns. Runs of callers without a name are those of the anonymous one, who takes turns like others."""
    # A start that died midway is finished by the next one.
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    for name, column in _COLUMNS.items():
        if name not in known:
            op.add_column("runs", column)
    op.execute("UPDATE runs SET caller = 'anonymous' WHERE caller IS NULL")
    op.create_index(_INDEX, "runs", ["caller", "lease_begin_time"], if_not_exists=True)


def downgrade() -> None:
    """Drop the columns."""
    op.drop_index(_INDEX, "runs")
    for name in _COLUMNS:
        op.drop_column("runs", name)

"""Tells whether the database that answers is the one that was asked before, with all that was committed there.

Ids of rows are remembered between transactions. A standby that takes over without the last commits, a backup that is
restored, or a crash with ``synchronous_commit=off`` gives the same ids to other rows. Each of these ends and starts
PostgreSQL's postmaster, or starts its other processes anew, which loses their statistics; so two statements that find
the same incarnation have no lost commit between them. Everybody may read both times; somebody who resets the statistics
begins an incarnation as well, and what was remembered is read again.

A file belongs to one process, which remembers nothing of an earlier file: its incarnation is always the same.
"""

from typing import Final

from sqlalchemy import ColumnElement, Dialect, Text, literal_column

_POSTGRES: Final = (
    "concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()), "
    "(SELECT extract(epoch FROM stats_reset) FROM pg_stat_bgwriter))"
)


def incarnation(dialect: Dialect) -> ColumnElement[str]:
    """What tells the incarnation in a statement, as a column or in a condition."""
    return literal_column("''" if dialect.name == "sqlite" else _POSTGRES, Text)

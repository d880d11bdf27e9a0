"""How far the write-ahead journal beside an SQLite file may grow.

SQLite lets it grow to a thousand pages (4 MiB) before it copies them back, and never makes it shorter: a service that
keeps a few kilobytes in each of several files would hold megabytes of journals.
"""

from typing import Final

SMALL_PAGES: Final = 16
"""For files that change a little at a time."""
BULK_PAGES: Final = 256
"""For files that take many rows at once, where copying back more often would cost writes to the disk."""

_PAGE_BYTES: Final = 4096


def bounded_journal(pages: int) -> tuple[str, ...]:
    """Return the pragmas of a connection whose journal is copied back, and cut, at so many pages of 4 KiB.

    A transaction that is larger makes it longer until it is copied back.
    """
    return ("journal_mode=WAL", f"wal_autocheckpoint={pages}", f"journal_size_limit={pages * _PAGE_BYTES}")

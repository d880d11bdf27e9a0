"""Decisions about a finite list of items from a part of them, right whenever one stops: docs/statistics.md."""

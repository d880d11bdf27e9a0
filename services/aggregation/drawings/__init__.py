"""Drawings: in which order a task's items are evaluated, and what a part of them decides; see docs/statistics.md."""

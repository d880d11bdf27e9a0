"""Runs beside each other: two of them item by item, the items of many, and a sequence of checkpoints."""

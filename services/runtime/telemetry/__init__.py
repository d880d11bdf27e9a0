"""Traces: what is going on for one item, over all processes that it passes through."""

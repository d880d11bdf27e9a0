"""Decisions that are right whenever one stops."""

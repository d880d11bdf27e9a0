"""Runs programs that nobody has read: where they can hurt nothing, for as long as they are allowed to."""

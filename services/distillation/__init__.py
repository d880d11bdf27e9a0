"""Trains small guards from a larger one's labels."""

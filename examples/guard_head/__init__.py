"""Trains and measures the head of the embedded guard: a linear hazard classifier on a frozen sentence encoder."""

"""Measures over items and samples: pure functions of arrays, each with its source."""

"""Evaluation runs: their record, their items' way through the fleet, and who executes them."""

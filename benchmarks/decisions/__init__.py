"""Replays real models' results through the aggregation service's rules; the command is benchmarks/decision_cost.py."""

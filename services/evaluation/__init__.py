"""The evaluation service: suites of tasks, and runs of them against models."""

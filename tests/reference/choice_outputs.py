"""Crafted log-likelihoods of choices, seeded by the row, so always the same."""

import random


def truthfulqa_log_likelihoods(question: str, count: int) -> list[float]:
    """One a choice."""
    return _values(f"truthfulqa {question}", count)


def bbq_log_likelihoods(name: str, count: int) -> list[float]:
    """One a choice; the first two, the people, are likelier than they would be by chance."""
    values = _values(f"bbq {name}", count)
    return [value / 3 if index < 2 else value for index, value in enumerate(values)]


def _values(seed: str, count: int) -> list[float]:
    draw = random.Random(seed)
    return [-draw.uniform(0.1, 30) for _ in range(count)]

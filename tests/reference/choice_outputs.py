"""Crafted log-likelihoods of choices, seeded by the row, so always the same."""

import random


def truthfulqa_log_likelihoods(question: str, count: int) -> list[float]:
    """One a choice."""
    return _values(f"truthfulqa {question}", count)


def bbq_log_likelihoods(name: str, count: int) -> list[float]:
    """One a choice; the first two, the people, are likelier than they would be by chance."""
    values = _values(f"bbq {name}", count)
    return [value / 3 if index < 2 else value for index, value in enumerate(values)]


def arc_log_likelihoods(item: str, count: int) -> tuple[list[float], list[float]]:
    """One a choice given the question, and one without it; in half of the items the differences are small."""
    conditional, unconditional = _values(f"arc {item}", count), _values(f"arc alone {item}", count)
    if random.Random(item).random() < 0.5:
        conditional = [value + draw / 10 for value, draw in zip(unconditional, conditional, strict=True)]
    return conditional, unconditional


def _values(seed: str, count: int) -> list[float]:
    draw = random.Random(seed)
    return [-draw.uniform(0.1, 30) for _ in range(count)]

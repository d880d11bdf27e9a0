"""What there is to evaluate with, as plain values."""

from dataclasses import dataclass

from evalfleet.goals import Tier


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a suite; ``comparable_to`` says which published numbers its own can be compared with."""

    name: str
    description: str
    primary_metric: str
    higher_is_better: bool
    comparable_to: str


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of tasks that are run together."""

    name: str
    description: str
    digest: str
    tasks: tuple[Task, ...]
    tiers: tuple[Tier, ...] = ()

"""What there is to evaluate with, as plain values."""

from dataclasses import dataclass

from evalfleet.goals import Tier


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """A metric that a task reports, and whether more of it is better."""

    name: str
    higher_is_better: bool
    description: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a suite; ``comparable_to`` says which published numbers its own can be compared with.

    ``metrics`` are all that it reports; empty where the service is of an earlier release. ``higher_is_better`` is about
    the primary one.
    """

    name: str
    description: str
    primary_metric: str
    higher_is_better: bool
    comparable_to: str
    metrics: tuple[TaskMetric, ...] = ()

    def lower_is_better(self, metric: str) -> bool | None:
        """Return whether less of a metric is better; ``None`` if the task does not say."""
        if metric == self.primary_metric:
            return not self.higher_is_better
        return next((not each.higher_is_better for each in self.metrics if each.name == metric), None)


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of tasks that are run together."""

    name: str
    description: str
    digest: str
    tasks: tuple[Task, ...]
    tiers: tuple[Tier, ...] = ()

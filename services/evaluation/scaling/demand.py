"""How much work open runs and rankings want done at once, by the deployment that does it."""

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from services.evaluation.rankings.record import Ranking
from services.evaluation.runs.record import Run, TaskProgress


class Deployment(enum.Enum):
    """Whose replicas are wanted."""

    GENERATION = "generation"
    GUARD = "guard"
    TRITON = "triton"
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class Demand:
    """Work that is wanted done at once.

    Attributes:
        generation_items: items that runs would have in flight if nothing kept them waiting.
        guard_items: those of them that a guard judges, too.
        run_count: runs, whether somebody works on them or they wait; rankings count as what has as many places.
    """

    generation_items: int = 0
    guard_items: int = 0
    run_count: int = 0

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(
            self.generation_items + other.generation_items,
            self.guard_items + other.guard_items,
            self.run_count + other.run_count,
        )

    def of(self, deployment: Deployment) -> int:
        """Items for a deployment of models, runs for the evaluation service.

        An item in flight is at the generating model or at a guard: one Triton for both has as many as there are items.
        """
        return {
            Deployment.GENERATION: self.generation_items,
            Deployment.GUARD: self.guard_items,
            Deployment.TRITON: max(self.generation_items, self.guard_items),
            Deployment.EVALUATION: self.run_count,
        }[deployment]


def total(demands: Iterable[Demand]) -> Demand:
    """All of them together."""
    return sum(demands, Demand())


def demand_of_run(run: Run, judged: Collection[str] | None) -> Demand:
    """What a run wants that has not ended.

    Args:
        run: as it is stored; its own replica says every few seconds how far it is.
        judged: its tasks that a guard judges; None: not known, so that any might be.
    """
    decided = {each.task for each in run.decisions if each.is_decided}
    undecided = [each for each in run.progress if each.task not in decided]
    to_judge = [each for each in undecided if judged is None or each.task in judged]
    return Demand(
        # Until it has ended it may want another item: of the next tier, or one that is asked again.
        generation_items=max(1, _wanted(undecided, run.concurrency)),
        guard_items=_wanted(to_judge, run.concurrency),
        run_count=1,
    )


def demand_of_ranking(ranking: Ranking, *, is_judged: bool) -> Demand:
    """What a ranking wants that has not ended: which items it needs, nobody knows before it has them."""
    return Demand(ranking.concurrency, ranking.concurrency if is_judged else 0, 1)


def _wanted(tasks: Collection[TaskProgress], concurrency: int) -> int:
    """Items that a run has in flight, or would have: as many as it may, at its end only those that are left."""
    left = 0
    for each in tasks:
        if each.item_count is None:
            return concurrency
        left += max(0, each.item_count - each.scored_count - each.failed_count)
    return min(concurrency, left)

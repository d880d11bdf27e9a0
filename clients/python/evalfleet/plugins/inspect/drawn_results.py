"""A drawing of the aggregation service: which items come first, their results, and what these decide."""

from collections.abc import Sequence
from dataclasses import dataclass

from evalfleet.connections import Connection
from evalfleet.drawings import Drawings, DrawingSpec, Question
from evalfleet.errors import EvalFleetError
from evalfleet.goals import TaskDecision
from evalfleet.item_results import ItemFailure, ItemResult
from evalfleet.ledger import Ledger


@dataclass(frozen=True, slots=True)
class ItemOutcome:
    """What became of one sample of an item: its value, or, where nobody knows it, why."""

    item: str
    sample: int
    draw_index: int
    value: float | None
    reason: str = ""
    explanation: str = ""


class DrawnResults:
    """The drawing of one task of one run.

    Args:
        connection: to the aggregation service.
        run: ``runs/NAME``.
        task: name of the task.
        metric: name of what is measured, whose values are from 0 to 1.
    """

    def __init__(self, connection: Connection, *, run: str, task: str, metric: str) -> None:
        self._drawings = Drawings(connection)
        self._ledger = Ledger(connection)
        self.run = run
        self._task = task
        self._metric = metric

    def create(
        self,
        items: Sequence[str],
        *,
        seed: int,
        model: str,
        data_digest: str,
        questions: Sequence[Question] = (),
        samples: int = 1,
    ) -> list[str]:
        """Fix the order, which depends on the seed, the data's digest and the metric alone, and return it.

        The same again returns the same.

        Raises:
            EvalFleetError: the service has another drawing of this run and task, or cannot be reached.
        """
        spec = DrawingSpec(
            run=self.run,
            task=self._task,
            metric=self._metric,
            seed=seed,
            model=model,
            data_digest=data_digest,
            questions=tuple(questions),
            samples=samples,
            use_history=False,
        )
        self._drawings.create(spec, items)
        drawn: list[str] = []
        while len(drawn) < len(items):
            some = self._drawings.draw(self.run, self._task, first_draw_index=len(drawn)).draws
            if not some:
                raise EvalFleetError("the service draws no further items", reason="DRAWING_ENDED_EARLY")
            drawn += [each.item for each in some]
        return drawn

    def append(self, outcomes: Sequence[ItemOutcome]) -> TaskDecision | None:
        """Store results, which are not stored twice, and return what is decided now."""
        decisions = self._ledger.append(self._result(each) for each in outcomes).decisions
        return next((each for each in decisions if each.task == self._task), None)

    def decided(self) -> TaskDecision:
        """Return what all results decide."""
        return self._drawings.decisions(self.run, self._task)[0]

    def _result(self, outcome: ItemOutcome) -> ItemResult:
        # A failure that counts as nothing: what is decided then holds whatever it would have been.
        is_known = outcome.value is not None
        return ItemResult(
            run=self.run,
            task=self._task,
            item=outcome.item,
            sample=outcome.sample,
            draw_index=outcome.draw_index,
            metrics={} if outcome.value is None else {self._metric: outcome.value},
            failures=() if is_known else (ItemFailure(outcome.reason, outcome.explanation),),
        )

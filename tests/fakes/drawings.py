"""The aggregation service's drawings in memory, with a rule instead of statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from services.evaluation.runs.decisions import Answer, QuestionDecision, TaskDecision
from services.evaluation.runs.drawings import Draw, DrawingRequest, DrawnBlock
from services.evaluation.runs.gates import Direction, Gate, Precision
from services.evaluation.runs.outcome import ItemOutcome
from services.runtime.errors import AlreadyExistsError

Rows = Mapping[tuple[str, str, str, int], ItemOutcome]


@dataclass
class _Drawing:
    request: DrawingRequest
    item_ids: tuple[str, ...]
    order: tuple[int, ...]
    drawn_count: int = 0


class FakeDrawings:
    """Draws in an order shuffled by the seed; decides a gate once the items that are left cannot change it.

    Attributes:
        batch: draws of a batch; each waits for all results of the batch before the last one.
        draw_requests: (task, first index) of every call of ``draw``.
    """

    def __init__(self, rows: Rows) -> None:
        self.batch = 8
        self.draw_requests: list[tuple[str, int]] = []
        self.drawings: dict[tuple[str, str], _Drawing] = {}
        self._rows = rows

    async def create(self, request: DrawingRequest, item_ids: Iterable[str]) -> None:
        ids = tuple(item_ids)
        key = (request.run, request.questions.task)
        known = self.drawings.get(key)
        if known is None:
            order = list(range(len(ids)))
            Random(request.seed).shuffle(order)
            self.drawings[key] = _Drawing(request, ids, tuple(order))
        elif (known.request, known.item_ids) != (request, ids):
            raise AlreadyExistsError("another drawing", reason="DRAWING_DIFFERS")

    async def draw(self, run: str, task: str, first_draw_index: int, count: int) -> DrawnBlock:
        self.draw_requests.append((task, first_draw_index))
        drawing = self.drawings[run, task]
        decision = self._decide(run, drawing)
        needed = (first_draw_index // self.batch - 1) * self.batch
        if decision.completed_count < needed:
            return DrawnBlock((), False, needed, decision)
        end = min((first_draw_index // self.batch + 1) * self.batch, first_draw_index + count, len(drawing.order))
        draws = [
            Draw(drawing.order[index], drawing.item_ids[drawing.order[index]], index)
            for index in range(first_draw_index, end)
        ]
        drawing.drawn_count = max(drawing.drawn_count, end)
        return DrawnBlock(draws, end == len(drawing.order), None, self._decide(run, drawing))

    async def decisions(self, run: str) -> Sequence[TaskDecision]:
        return [self._decide(run, each) for (its_run, _), each in sorted(self.drawings.items()) if its_run == run]

    def decision(self, run: str, task: str) -> TaskDecision | None:
        """What is decided about a task; None for one without a drawing."""
        drawing = self.drawings.get((run, task))
        return None if drawing is None else self._decide(run, drawing)

    def _decide(self, run: str, drawing: _Drawing) -> TaskDecision:
        asked = drawing.request.questions
        scores = self._prefix(run, drawing)
        population = len(drawing.order)
        lower = sum(scores) / population
        upper = (sum(scores) + population - len(scores)) / population
        questions = tuple(_answer(each, asked.alpha, lower, upper) for each in asked.questions)
        return TaskDecision(
            task=asked.task,
            metric=asked.metric,
            questions=questions,
            is_decided=bool(questions) and all(each.answer is not Answer.UNDECIDED for each in questions),
            value=sum(scores) / len(scores) if scores else None,
            lower=lower,
            upper=upper,
            confidence_level=1 - asked.alpha,
            method="certain",
            completed_count=len(scores),
            drawn_count=drawing.drawn_count,
            item_count=population,
            saved_count=population - len(scores),
            is_exact=len(scores) == population,
        )

    def _prefix(self, run: str, drawing: _Drawing) -> list[float]:
        """Scores of the longest prefix of draws whose samples are all in."""
        asked, scores = drawing.request.questions, []
        for position in drawing.order[: drawing.drawn_count]:
            keys = [
                (run, asked.task, drawing.item_ids[position], sample) for sample in range(drawing.request.sample_count)
            ]
            outcomes = [self._rows.get(key) for key in keys]
            values = [_score(each, asked.metric) for each in outcomes if each is not None]
            if len(values) < len(keys):
                break
            scores.append(sum(values) / len(values))
        return scores


def _answer(question: Gate | Precision, alpha: float, lower: float, upper: float) -> QuestionDecision:
    answer = Answer.UNDECIDED
    if isinstance(question, Precision):
        answer = Answer.REACHED if upper - lower <= 2 * question.half_width else answer
        return QuestionDecision(question, alpha, answer)
    above, below = lower >= question.threshold, upper < question.threshold
    if question.direction is Direction.AT_MOST:
        above, below = upper <= question.threshold, lower > question.threshold
    if above or below:
        answer = Answer.PASSED if above else Answer.FAILED
    return QuestionDecision(question, alpha, answer)


def _score(outcome: ItemOutcome, metric: str) -> float:
    if outcome.metrics is not None:
        return outcome.metrics[metric]
    assert outcome.failure is not None
    return outcome.failure.counted_as.get(metric, 0.0)

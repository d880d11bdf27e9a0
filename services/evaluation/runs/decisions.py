"""What the aggregation service has decided about a run's tasks so far."""

import enum
from dataclasses import dataclass

from services.evaluation.runs.gates import Gate, Precision


class Answer(enum.Enum):
    """Answer to one question; UNDECIDED ones may still change, the others never do."""

    UNDECIDED = "undecided"
    PASSED = "passed"
    FAILED = "failed"
    REACHED = "reached"


@dataclass(frozen=True, slots=True)
class QuestionDecision:
    """One question and its answer.

    Attributes:
        decided_after: number of draws after which it was decided; ``None`` before.
        log_evidence_pass, log_evidence_fail: natural logarithms of the evidence either way; ``None`` for a precision.
    """

    question: Gate | Precision
    alpha: float
    answer: Answer
    decided_after: int | None = None
    log_evidence_pass: float | None = None
    log_evidence_fail: float | None = None


@dataclass(frozen=True, slots=True)
class TaskDecision:
    """What is known about one drawn task, from the longest prefix of its draws whose results are all in.

    Attributes:
        value: estimate of the metric over all items of the task; ``None`` before the first result.
        lower, upper: interval of that at ``confidence_level``, valid whenever one stops.
        completed_count: draws in the prefix.
        drawn_count: draws made, in flight included.
        item_count: items of the task.
        saved_count: items that have no result.
        unknown_count: items in the prefix whose score is not known.
        is_decided: there are questions, and all are decided.
        is_exact: every item is in.
        expected_remaining_count: roughly how many further items decide all questions; ``None`` where nobody can tell.
        draws_digest: SHA-256 (hex) over the order, the predictions and the weights of all draws.
    """

    task: str
    metric: str
    questions: tuple[QuestionDecision, ...]
    is_decided: bool
    value: float | None
    lower: float
    upper: float
    confidence_level: float
    method: str
    completed_count: int
    drawn_count: int
    item_count: int
    saved_count: int
    unknown_count: int = 0
    is_exact: bool = False
    draws_digest: str = ""
    expected_remaining_count: int | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a gate failed."""
        return any(question.answer is Answer.FAILED for question in self.questions)

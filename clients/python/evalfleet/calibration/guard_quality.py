"""How often a guard is right about labelled texts: what rates without its errors need."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalfleet.calibration.rows import Text
from evalfleet.calibration.temperature import CalibrationErrors, calibration_errors
from evalfleet.errors import CalibrationError, EvalFleetError
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Safety

# A run's rate of unsafe answers counts the middle level as unsafe, too.
_FLAGGED = {Decision.SAFE: False, Decision.CONTROVERSIAL: True, Decision.UNSAFE: True}


@dataclass(frozen=True, slots=True)
class MeasuredGuard:
    """A guard's verdicts against labels.

    Attributes:
        found: of ``unsafe`` texts that are labelled unsafe, those that it flagged.
        unsafe: labelled unsafe, and judged.
        cleared: of ``safe`` texts that are labelled safe, those that it did not flag.
        safe: labelled safe, and judged.
        unjudged: texts without a verdict, by reason; they are in none of the counts.
        errors: of its probabilities, where it gives one for every text that it judged.
    """

    found: int
    unsafe: int
    cleared: int
    safe: int
    unjudged: dict[str, int]
    errors: CalibrationErrors | None

    @property
    def counts(self) -> str:
        """As ``evalfleet show --guard-quality`` takes them."""
        return f"{self.found}/{self.unsafe},{self.cleared}/{self.safe}"


def measure_guard(
    safety: Safety, guard: str, texts: Sequence[Text], report: Callable[[int], None] = lambda done: None
) -> MeasuredGuard:
    """Have a guard judge labelled texts.

    Args:
        safety: the service.
        guard: its name.
        texts: each with a label, some unsafe and some safe.
        report: told how many were judged, after every one.

    Raises:
        CalibrationError: labels are missing, or all are alike.
        EvalFleetError: the service is away, or the guard is not there.
    """
    labels = [text.is_unsafe for text in texts]
    if None in labels:
        raise CalibrationError(
            f"{labels.count(None)} of {len(labels)} rows have no label; one guard alone is measured against labels",
            reason="LABEL_MISSING",
        )
    if len(set(labels)) < 2:
        raise CalibrationError("the rows need both labels, safe and unsafe", reason="TOO_FEW_ROWS")
    judged: list[tuple[bool, bool]] = []
    probabilities: list[float | None] = []
    unjudged: dict[str, int] = {}
    answers = safety.classify_many((text.conversation for text in texts), guard=guard)
    for done, (index, answer) in enumerate(answers, start=1):
        if isinstance(answer, Verdict) and answer.decision in _FLAGGED:
            judged.append((bool(labels[index]), _FLAGGED[answer.decision]))
            probabilities.append(answer.unsafe_probability)
        else:
            reason = _reason(answer)
            unjudged[reason] = unjudged.get(reason, 0) + 1
        report(done)
    known = [each for each in probabilities if each is not None]
    return MeasuredGuard(
        found=judged.count((True, True)),
        unsafe=sum(label for label, _ in judged),
        cleared=judged.count((False, False)),
        safe=sum(not label for label, _ in judged),
        unjudged=unjudged,
        errors=calibration_errors(known, [label for label, _ in judged])
        if known and len(known) == len(judged)
        else None,
    )


def _reason(answer: Verdict | EvalFleetError) -> str:
    return (answer.error_reason if isinstance(answer, Verdict) else answer.reason) or "UNKNOWN"

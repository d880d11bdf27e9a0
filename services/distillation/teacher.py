"""The teacher: a guard of a running safety service, asked for no more labels than needed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from evalfleet.calibration.rows import Text
from evalfleet.results import Decision, Guard, Verdict
from evalfleet.verdicts import Safety

from services.distillation.labels import LabelsFile, TeacherLabel
from services.safety.digests import json_digest

_KEPT: Final = (Decision.SAFE, Decision.UNSAFE, Decision.CONTROVERSIAL)


class Teacher(Protocol):
    """Says of texts whether they are unsafe."""

    def label(self, texts: Sequence[Text]) -> list[TeacherLabel | None]:
        """Return one label a text, in their order; None where the teacher could not judge."""


@dataclass(slots=True)
class Spent:
    """What the labels cost.

    Attributes:
        asked: texts that the teacher was asked about.
        known: texts whose label was in the file.
        unjudged: texts that it was asked about and could not judge, by reason.
    """

    asked: int = 0
    known: int = 0
    unjudged: dict[str, int] = field(default_factory=dict)


class GuardTeacher:
    """Implements ``Teacher`` on a guard of a safety service.

    Args:
        safety: the service.
        guard: the name of the guard.
        labels: where its labels are kept; those that are there are not asked again.
        report: told after every label how many texts have a label by now.

    Attributes:
        spent: what was asked so far.
    """

    def __init__(
        self, safety: Safety, guard: str, labels: LabelsFile, report: Callable[[int], None] = lambda labelled: None
    ) -> None:
        self._safety = safety
        self._guard = guard
        self._labels = labels
        self._report = report
        self.spent = Spent()

    def label(self, texts: Sequence[Text]) -> list[TeacherLabel | None]:
        """Return one label a text; what the guard could not judge now is asked again another time.

        Raises:
            EvalFleetError: the service is away, or the guard is not there.
            LabelsFileError: a label cannot be kept.
        """
        keys = [text_digest(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if self._labels.get(key) is None}
        self.spent.known += len(texts) - len(missing)
        self._tell()
        asked = list(missing.items())
        self._ask(asked)
        return [self._labels.get(key) for key in keys]

    def _ask(self, asked: Sequence[tuple[str, Text]]) -> None:
        """Ask about as many texts at a time as the service takes, and keep each label as it comes."""
        conversations = (text.conversation for _, text in asked)
        for index, answer in self._safety.classify_many(conversations, guard=self._guard):
            if isinstance(answer, Verdict) and answer.decision in _KEPT:
                label = TeacherLabel(answer.decision.value, answer.unsafe_probability, answer.threshold)
                self._labels.add(asked[index][0], label)
            else:
                reason = answer.error_reason if isinstance(answer, Verdict) else answer.reason
                self.spent.unjudged[reason] = self.spent.unjudged.get(reason, 0) + 1
            self.spent.asked += 1
            self._tell()

    def _tell(self) -> None:
        self._report(self.spent.known + self.spent.asked)


def text_digest(text: Text) -> str:
    """Return the SHA-256 (hex) of a text with all of its conversation."""
    return json_digest(text.conversation)


def guard_digest(guard: Guard) -> str:
    """Return the SHA-256 (hex) of what decides a guard's verdicts; its name does not."""
    reference = guard.reference
    digests = [reference.weights_digest, reference.template_digest, reference.calibration_digest]
    return json_digest([*digests, reference.engine, reference.dtype])

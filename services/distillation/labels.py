"""A teacher's labels, kept in a file as they come: each has cost a call of a large guard."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from services.distillation.errors import LabelsFileError

DECIDED: Final = {"safe": False, "unsafe": True}
_LEAST_ODDS: Final = 1e-6


@dataclass(frozen=True, slots=True)
class TeacherLabel:
    """What a teacher said of one text.

    Attributes:
        decision: ``safe``, ``unsafe``, or ``controversial``, which teaches nothing.
        probability: that it is unsafe; None where the teacher gives none.
        threshold: that the teacher decided at; None where it decides without one.
    """

    decision: str
    probability: float | None = None
    threshold: float | None = None

    @property
    def is_unsafe(self) -> bool | None:
        """What the teacher decided; None if neither safe nor unsafe."""
        return DECIDED.get(self.decision)

    @property
    def target(self) -> float:
        """What a student learns: the probability, its log-odds moved so that the teacher's threshold lies at 0.5.

        Where there is no probability, or where the decision is not the threshold's, 1 or 0.
        """
        decided = float(bool(self.is_unsafe))
        if self.probability is None or self.threshold is None or not 0 < self.threshold < 1:
            return decided
        moved = 1 / (1 + math.exp(_log_odds(self.threshold) - _log_odds(self.probability)))
        return moved if (moved >= 0.5) == bool(self.is_unsafe) else decided


class LabelsFile:
    """Labels by text, of one teacher, in a JSONL file that may hold other teachers' too. Use as a context manager.

    A line that an interrupted run left unfinished at the end is dropped.

    Args:
        path: of the file; it need not be there.
        teacher: SHA-256 (hex) of everything that decides the teacher's verdicts.

    Raises:
        LabelsFileError: the file cannot be used; names the line.
    """

    def __init__(self, path: Path, teacher: str) -> None:
        self._path = path
        self._teacher = teacher
        self._labels: dict[str, TeacherLabel] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: BinaryIO = path.open("a+b")
        except OSError as error:
            raise _bad(path, f"cannot be used ({error})") from error
        try:
            self._read()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stream.close()

    def __len__(self) -> int:
        return len(self._labels)

    def get(self, text: str) -> TeacherLabel | None:
        """Return the label of the text with this digest."""
        return self._labels.get(text)

    def add(self, text: str, label: TeacherLabel) -> None:
        """Keep a label; it is in the file when this returns.

        Raises:
            LabelsFileError: it cannot be written.
        """
        line = json.dumps({"text": text, "teacher": self._teacher, **asdict(label)}) + "\n"
        try:
            self._stream.write(line.encode())
            self._stream.flush()
        except OSError as error:
            raise _bad(self._path, f"cannot be written ({error})") from error
        self._labels[text] = label

    def _read(self) -> None:
        self._stream.seek(0)
        whole = 0
        for number, line in enumerate(self._stream, start=1):
            if not line.endswith(b"\n"):
                self._stream.truncate(whole)
                break
            whole += len(line)
            if line.strip():
                self._take(number, line)

    def _take(self, number: int, line: bytes) -> None:
        try:
            row = json.loads(line)
            text, teacher = str(row["text"]), row["teacher"]
            label = TeacherLabel(str(row["decision"]), _share(row["probability"]), _share(row["threshold"]))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _bad(self._path, f"line {number} is no label ({error})") from error
        if teacher == self._teacher:
            self._labels[text] = label


def _share(value: Any) -> float | None:
    if value is None:
        return None
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{value!r} is not from 0 to 1")
    return share


def _log_odds(probability: float) -> float:
    bounded = min(1 - _LEAST_ODDS, max(_LEAST_ODDS, probability))
    return math.log(bounded / (1 - bounded))


def _bad(path: Path, problem: str) -> LabelsFileError:
    return LabelsFileError(f"labels file {path}: {problem}", metadata={"path": str(path)})

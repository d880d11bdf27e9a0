"""Reads texts that people judged, and has a judge of a scoring service judge them, too."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalfleet.errors import CalibrationError, EvalFleetError
from evalfleet.scorer_results import Score, ScorerReference
from evalfleet.scores import ScorableOutput, Scoring

SCORER = "llm_judge"
BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, and the verdict that people gave it: a verdict of the rubric, or who wins a comparison."""

    text: ScorableOutput
    label: str


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """The rows of a file, and the SHA-256 (hex) of its content."""

    rows: tuple[LabelledText, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """What people and a judge said of one text.

    Attributes:
        label: what people said.
        votes: what the judge said, in the words of the rubric; () where it failed.
        metrics: the judge's; empty where it failed.
        failure: the reason why there is no verdict; empty where there is one.
    """

    label: str
    votes: tuple[str, ...]
    metrics: Mapping[str, float]
    failure: str = ""

    @property
    def verdict(self) -> str:
        """The most frequent vote, the first of equals."""
        return Counter(self.votes).most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """All rows, the judge (``None`` if it judged none), and what asking it cost."""

    rows: tuple[JudgedRow, ...]
    judge: ScorerReference | None
    computed_tokens: int
    cached_rows: int


def read_labelled(path: Path) -> LabelledTexts:
    """Read a JSONL file: ``prompt``, ``response``, ``label``; ``reference`` (text or list) and ``baseline`` if needed.

    Raises:
        CalibrationError: with the line that is wrong.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error}", reason="FILE_NOT_READABLE") from error
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_read_row(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{path}, line {number}: {error}", reason="ROW_INVALID") from error
    if not rows:
        raise CalibrationError(f"{path} holds no rows", reason="TOO_FEW_ROWS")
    return LabelledTexts(tuple(rows), hashlib.sha256(content).hexdigest())


def judge_rows(
    scoring: Scoring,
    texts: Sequence[LabelledText],
    parameters: Mapping[str, Any],
    *,
    report: Callable[[int], None] = lambda done: None,
) -> JudgedRows:
    """Have the judge judge the texts.

    Args:
        scoring: the service.
        texts: what is judged.
        parameters: of ``llm_judge``.
        report: told how many texts are judged, after every batch.

    Raises:
        CalibrationError: the judge changed meanwhile.
        EvalFleetError: the service is away, or the judge is not there: what fails for one text would for all.
    """
    rows: list[JudgedRow] = []
    judges: set[ScorerReference] = set()
    computed = cached = 0
    for first in range(0, len(texts), BATCH_ROWS):
        some = texts[first : first + BATCH_ROWS]
        outcomes = scoring.score_batch([each.text for each in some], scorer=SCORER, parameters=parameters)
        for text, outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, Score):
                judges.add(outcome.scorer)
                computed += outcome.computed_tokens
                cached += outcome.is_cached
                rows.append(JudgedRow(text.label, tuple((outcome.extracted_answer or "").split()), outcome.metrics))
            elif outcome.reason in _FAILURES_OF_ONE:
                computed += _computed_tokens(outcome)
                rows.append(JudgedRow(text.label, (), {}, outcome.reason))
            else:
                raise outcome
        report(len(rows))
    if len(judges) > 1:
        raise CalibrationError("the judge's model was replaced meanwhile: begin again", reason="JUDGE_CHANGED")
    return JudgedRows(tuple(rows), next(iter(judges), None), computed, cached)


# Of the text or of the judge's answer to it; whatever else fails is no measure of the judge.
_FAILURES_OF_ONE = frozenset({"JUDGE_UNPARSABLE", "JUDGE_PROMPT_TOO_LONG"})


def _computed_tokens(error: EvalFleetError) -> int:
    names = ("usage_computed_prompt_tokens", "usage_computed_completion_tokens")
    return sum(int(told) for name in names if (told := error.metadata.get(name, "")).isdecimal())


def _read_row(row: Any) -> LabelledText:
    if not isinstance(row, dict):
        raise ValueError("must be a JSON object")
    for name in ("prompt", "response"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"needs {name}, a text")
    label = row.get("label")
    if (
        isinstance(label, bool)
        or not isinstance(label, str | int)
        or not str(label)
        or str(label).split() != [str(label)]
    ):
        raise ValueError("needs label: a verdict of the rubric, or response, baseline or tie of a comparison")
    references = row.get("reference", [])
    targets = [references] if isinstance(references, str) else references
    if not isinstance(targets, list) or not all(isinstance(each, str) for each in targets):
        raise ValueError("reference must be a text or a list of texts")
    baseline = row.get("baseline")
    if baseline is not None and not isinstance(baseline, str):
        raise ValueError("baseline must be a text")
    text: dict[str, object] = {"text": row["response"], "prompt": row["prompt"], "targets": targets}
    if baseline is not None:
        text["details"] = {"baseline": baseline}
    return LabelledText(text, str(label))

"""Reads the texts of a calibration, and has guards of a safety service judge them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalfleet.calibration.fitting import JudgedRow
from evalfleet.errors import CalibrationError, EvalFleetError
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Role, Safety

_ROLES: tuple[Role, ...] = ("system", "user", "assistant")
_DECIDED = {Decision.SAFE: False, Decision.UNSAFE: True}


@dataclass(frozen=True, slots=True)
class Text:
    """One row of a calibration set.

    Attributes:
        conversation: (role, text) of each turn; the last is judged, a user's as a prompt, an assistant's as a response.
        is_unsafe: what people, or a teacher, said; ``None`` if the row has no label.
    """

    conversation: tuple[tuple[Role, str], ...]
    is_unsafe: bool | None


@dataclass(frozen=True, slots=True)
class JudgedTexts:
    """What guards said of the texts.

    Attributes:
        rows: one a text.
        undecided: texts on which the last guard was neither SAFE nor UNSAFE; they count against whoever decides them.
        handed_on: texts that each early guard hands on whatever its thresholds, by guard.
    """

    rows: tuple[JudgedRow, ...]
    undecided: int
    handed_on: tuple[int, ...]


def read_texts(path: Path) -> list[Text]:
    """Read a JSONL file: one object a line with ``text``, or ``prompt`` and ``response``, or ``messages``.

    ``label`` may be ``"unsafe"``, ``"safe"``, true or false (unsafe or not), 1 or 0. Other fields are ignored.

    Raises:
        CalibrationError: with the line that is wrong.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error}", reason="FILE_NOT_READABLE") from error
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            texts.append(_read_text(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{path}, line {number}: {error}", reason="ROW_INVALID") from error
    if not texts:
        raise CalibrationError(f"{path} holds no rows", reason="TOO_FEW_ROWS")
    return texts


def judge_texts(
    safety: Safety,
    guards: Sequence[str],
    texts: Sequence[Text],
    *,
    labels_are_last: bool = False,
    report: Callable[[str, int], None] = lambda guard, done: None,
) -> JudgedTexts:
    """Have guards judge texts, as many at a time as the service takes; one that is restarted is waited for.

    Args:
        safety: the service.
        guards: names, cheapest first.
        texts: what is judged.
        labels_are_last: the labels are the last guard's decisions, which is not asked again.
        report: told the guard and how many texts it has judged, after every one.

    Raises:
        CalibrationError: labels are to stand for decisions, and some are missing.
        EvalFleetError: the service is away, or a guard is not there.
    """
    if labels_are_last and any(text.is_unsafe is None for text in texts):
        raise CalibrationError("some rows have no label, so labels cannot stand for a guard", reason="LABEL_MISSING")
    early = [[_probability(each) for each in _judge(safety, guard, texts, report)] for guard in guards[:-1]]
    decided = (
        [text.is_unsafe for text in texts]
        if labels_are_last
        else [_decision(each) for each in _judge(safety, guards[-1], texts, report)]
    )
    rows = tuple(
        JudgedRow(tuple(column[index] for column in early), is_unsafe) for index, is_unsafe in enumerate(decided)
    )
    return JudgedTexts(
        rows=rows,
        undecided=sum(each is None for each in decided),
        handed_on=tuple(sum(each is None for each in column) for column in early),
    )


def _judge(
    safety: Safety, guard: str, texts: Sequence[Text], report: Callable[[str, int], None]
) -> list[Verdict | EvalFleetError]:
    """Return what a guard says of each text, in their order."""
    answers: dict[int, Verdict | EvalFleetError] = {}
    for index, answer in safety.classify_many((text.conversation for text in texts), guard=guard):
        answers[index] = answer
        report(guard, len(answers))
    return [answers[index] for index in range(len(texts))]


def _probability(answer: Verdict | EvalFleetError) -> float | None:
    """Return the probability that a cascade could decide on; the service's cascade hands on in the same cases."""
    if isinstance(answer, EvalFleetError) or answer.decision not in _DECIDED or answer.truncated:
        return None
    return answer.unsafe_probability


def _decision(answer: Verdict | EvalFleetError) -> bool | None:
    return None if isinstance(answer, EvalFleetError) else _DECIDED.get(answer.decision)


def _read_text(row: Any) -> Text:
    if not isinstance(row, dict):
        raise ValueError("must be a JSON object")
    return Text(tuple(_conversation(row)), _label(row.get("label")))


def _conversation(row: dict[str, Any]) -> list[tuple[Role, str]]:
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            raise ValueError("messages must be a list of turns")
        return [_turn(message) for message in messages]
    prompt, response = row.get("prompt", row.get("text")), row.get("response")
    if not isinstance(prompt, str):
        raise ValueError("needs text, or prompt and response, or messages")
    if response is None:
        return [("user", prompt)]
    if not isinstance(response, str):
        raise ValueError("response must be text")
    return [("user", prompt), ("assistant", response)]


def _turn(message: Any) -> tuple[Role, str]:
    if isinstance(message, dict) and isinstance(message.get("content"), str):
        for role in _ROLES:
            if message.get("role") == role:
                return role, message["content"]
    raise ValueError("a turn needs role (system, user or assistant) and content")


def _label(value: Any) -> bool | None:
    if value is None:
        return None
    if isinstance(value, bool | int) and value in (0, 1):
        return bool(value)
    if value in ("safe", "unsafe"):
        return bool(value == "unsafe")
    raise ValueError(f"label {value!r} is none of unsafe, safe, true, false, 1, 0")

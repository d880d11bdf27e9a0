"""What docs/json.md says of the commands' JSON, made from the dataclasses.

`python -m tests.unit.cli.json_shapes` writes it there.
"""

import dataclasses
import enum
import textwrap
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

from evalfleet.answers import Answer
from evalfleet.calibration.fitting import CascadeFit
from evalfleet.calibration.guard_quality import MeasuredGuard
from evalfleet.comparison_results import ComparedRuns, ItemAnalysis, Regressions
from evalfleet.doctor import Finding
from evalfleet.goals import CallerBudget, RunPlan
from evalfleet.ledger import Pruned
from evalfleet.plugins.lm_eval_tasks import ImportedTask
from evalfleet.rankings import Ranking
from evalfleet.ray import BulkSummary
from evalfleet.results import FailedItem, Guard, Model, Policy, Run, RunSnapshot, Suite, Verdict
from evalfleet.scorer_results import Scorer
from evalfleet.servers import ServerInfo

DOCUMENT = Path(__file__).parents[3] / "docs" / "json.md"
BEGIN = "<!-- made by `python -m tests.unit.cli.json_shapes`: do not edit below -->\n"

ROOTS: tuple[type, ...] = (
    Run,
    RunSnapshot,
    FailedItem,
    RunPlan,
    CallerBudget,
    Pruned,
    Ranking,
    ComparedRuns,
    Regressions,
    ItemAnalysis,
    Model,
    Suite,
    Scorer,
    Guard,
    Policy,
    Verdict,
    Answer,
    MeasuredGuard,
    CascadeFit,
    Finding,
    ServerInfo,
    BulkSummary,
    ImportedTask,
)
_WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", datetime: "time", NoneType: "null"}


def assert_shape(told: Any, hint: Any) -> None:
    """Assert that parsed JSON has exactly the fields of a dataclass, and its values their types."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        assert set(told) == {each.name for each in dataclasses.fields(hint)}
        hints = typing.get_type_hints(hint)
        for name, value in told.items():
            assert_shape(value, hints[name])
    elif origin in (typing.Union, UnionType):
        if told is not None:
            assert_shape(told, next(each for each in arguments if each is not type(None)))
    elif origin is tuple:
        for each in told:
            assert_shape(each, arguments[0])
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        assert isinstance(told, dict)
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        assert told in list(hint)
    elif hint is datetime:
        assert datetime.fromisoformat(told).tzinfo is not None
    elif hint in (str, int, bool):
        assert type(told) is hint
    elif hint is float:
        assert isinstance(told, float | int)


def objects_section() -> str:
    """Describe every dataclass that a command's JSON may hold, ordered by name."""
    found: dict[str, type] = {}
    waiting = list(ROOTS)
    while waiting:
        current = waiting.pop()
        if current.__qualname__ in found:
            assert found[current.__qualname__] is current, f"two classes of one name: {current}"
            continue
        found[current.__qualname__] = current
        for hint in _hints(current).values():
            waiting += _dataclasses_in(hint)
    return "\n".join(_described(found[name]) for name in sorted(found))


def _described(one: type) -> str:
    told = "; ".join(f"`{name}` {_words(hint)}" for name, hint in _hints(one).items())
    return "\n".join([f"### {one.__qualname__}", "", *textwrap.wrap(told, 120, break_long_words=False), ""])


def _hints(one: type) -> dict[str, object]:
    hints = typing.get_type_hints(one)
    return {each.name: hints[each.name] for each in dataclasses.fields(one)}


def _dataclasses_in(hint: object) -> list[type]:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [found for each in typing.get_args(hint) for found in _dataclasses_in(each)]


def _words(hint: object) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(_words(each) for each in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple and arguments[-1] is not ...:
        return f"array of {len(arguments)}: {', '.join(_words(each) for each in arguments)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"object: name to {_words(arguments[1])}"
    if isinstance(origin, type) and issubclass(origin, Sequence):
        inner = _words(arguments[0])
        return f"array of ({inner})" if " or " in inner and inner != "true or false" else f"array of {inner}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(f"`{each.value}`" for each in hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"[{hint.__qualname__}](#{hint.__qualname__.lower()})"
    return _WORDS[hint] if isinstance(hint, type) and hint in _WORDS else "any value"


if __name__ == "__main__":
    kept = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[0]
    DOCUMENT.write_text(kept + BEGIN + "\n" + objects_section(), encoding="utf-8")

"""How a ranking is kept: as one JSON document."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from enum import Enum
from typing import Any, Final

from services.evaluation.rankings.record import Contender, Ranking, Span, Standing
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.record import RunFailure, RunState, StopReason
from services.runtime.errors import FailedPreconditionError

_LATER_FIELDS: Final = frozenset({"tolerance"})
"""Fields that earlier versions do not know: they are written only where they say something."""


def document_of(ranking: Ranking) -> str:
    """The ranking as JSON, which earlier versions can read as far as they could make it."""
    defaults = {each.name: each.default for each in fields(Ranking) if each.name in _LATER_FIELDS}
    values = {name: value for name, value in asdict(ranking).items() if defaults.get(name, MISSING) != value}
    return json.dumps(values, default=_plain)


def ranking_of(document: str) -> Ranking:
    """The ranking of ``document_of``.

    Raises:
        FailedPreconditionError: RANKING_OF_NEWER_VERSION: it has fields that this version does not know. To leave them
            out would change what is ranked, and forget them at the next save.
    """
    values = json.loads(document)
    if unknown := sorted(values.keys() - {each.name for each in fields(Ranking)}):
        raise FailedPreconditionError(
            f"rankings/{values.get('ranking_id')} was made by a newer version: {', '.join(unknown)}",
            reason="RANKING_OF_NEWER_VERSION",
            metadata={"fields": ",".join(unknown)},
        )
    values["contenders"] = tuple(_contender(each) for each in values["contenders"])
    values["budget"] = Budget(**values["budget"])
    values["spent"] = Spend(**values["spent"])
    values["state"] = RunState(values["state"])
    values["failure"] = None if values["failure"] is None else RunFailure(**values["failure"])
    values["stop_reason"] = None if values["stop_reason"] is None else StopReason(values["stop_reason"])
    return Ranking(**values)


def _contender(values: Mapping[str, Any]) -> Contender:
    # Rankings of earlier versions counted one outcome an item.
    counted = {"evaluated_count": values["scored_count"] + values["failed_count"], **values}
    spans = {name: None if values[name] is None else Span(**values[name]) for name in ("span", "difference")}
    return Contender(**{**counted, **spans, "standing": Standing(values["standing"])})


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"no JSON for {type(value).__name__}")

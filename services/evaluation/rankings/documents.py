"""How a ranking is kept: as one JSON document."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any

from services.evaluation.rankings.record import Contender, Ranking, Span, Standing
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.record import RunFailure, RunState, StopReason


def document_of(ranking: Ranking) -> str:
    """The ranking as JSON."""
    return json.dumps(asdict(ranking), default=_plain)


def ranking_of(document: str) -> Ranking:
    """The ranking of ``document_of``."""
    values = json.loads(document)
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

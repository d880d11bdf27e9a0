"""Results and ledgers for the aggregation room's tests."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from evalfleet.aggregation.v1 import aggregation_pb2

from services.aggregation.ledger import SqlLedger, open_ledger
from services.aggregation.records import Cost, Failed, Result, ResultKey, Scored
from services.runtime.database import sqlite_url

ResultFactory = Callable[..., Result]


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqlLedger]:
    """An empty ledger in a file."""
    async with open_ledger(sqlite_url(tmp_path / "ledger.sqlite")) as opened:
        yield opened


@pytest.fixture(scope="session")
def result() -> ResultFactory:
    """Make a scored result; by keyword: run, task, sample, and any field of ``Result``."""

    def make(item: str, *, task: str = "t", sample: int = 0, run: str = "runs/r", **fields: Any) -> Result:
        given: dict[str, Any] = {
            "outcome": Scored({"acc": 1.0}),
            "groups": {},
            "draw_index": 0,
            "cost": Cost(),
            "judges": (),
            "model_digest": "",
            "prompt": "",
            "output": "",
            "complete_microseconds": None,
            "is_truncated": False,
        }
        return Result(run=run, key=ResultKey(task, item, sample), **(given | fields))

    return make


@pytest.fixture(scope="session")
def failed() -> Failed:
    """A failure that counts as 0."""
    return Failed("PROMPT_TOO_LONG", "the prompt has 9 tokens too many", {"acc": 0.0})


@pytest.fixture(scope="session")
def message() -> Callable[..., aggregation_pb2.Result]:
    """Make a scored result as a message; keywords are its fields."""

    def make(item: str, **fields: Any) -> aggregation_pb2.Result:
        given: dict[str, Any] = {"run": "runs/r", "task": "t", "item": item}
        if "failure" not in fields:
            given["scored"] = aggregation_pb2.Scored(metrics={"acc": 1.0})
        return aggregation_pb2.Result(**(given | fields))

    return make

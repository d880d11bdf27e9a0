"""A list of runs of its own for each test, and a suite of ten items."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from tests.unit.evaluation.runs.stored_runs import opened
from tests.unit.evaluation.runs.suite_books import Book


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RunStore]:
    """The list of runs of one process."""
    async with opened(tmp_path / "runs.sqlite") as engine:
        yield RunStore(engine)


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    """One task whose items are asked in the order of the data."""
    return Book(Suite("demo", "a suite", (make_task(),)), [make_item(f"item {index}") for index in range(10)])

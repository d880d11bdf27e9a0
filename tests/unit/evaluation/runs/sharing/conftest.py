"""A list of runs that replicas share, and a suite of a hundred items."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.tasks import Suite
from tests.unit.evaluation.runs.sharing.replicas import ITEMS
from tests.unit.evaluation.runs.stored_runs import SharedStore, opened
from tests.unit.evaluation.runs.suite_books import Book


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SharedStore]:
    async with opened(tmp_path / "runs.sqlite") as engine:
        yield SharedStore(engine)


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    return Book(Suite("demo", "a suite", (make_task(),)), [make_item(f"item {index}") for index in range(ITEMS)])

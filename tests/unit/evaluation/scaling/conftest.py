"""A list of runs that replicas share, a suite of ten items of which a guard judges none, and replicas that serve it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.tasks import Suite
from tests.unit.evaluation.runs.stored_runs import SharedStore, opened
from tests.unit.evaluation.runs.suite_books import Book
from tests.unit.evaluation.scaling.replicas import Replicas


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SharedStore]:
    async with opened(tmp_path / "runs.sqlite") as engine:
        yield SharedStore(engine)


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    return Book(Suite("demo", "a suite", (make_task(),)), [make_item(f"item {index}") for index in range(10)])


@pytest.fixture
async def replicas(store: SharedStore, book: Book, fleet: Any) -> AsyncIterator[Replicas]:
    async with Replicas(store, book, fleet) as made:
        yield made

"""A list of rankings, three models, and a suite of two tasks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.rankings.store import RankingStore
from services.evaluation.runs.store import RunStore
from services.evaluation.tasks import Suite
from tests.fakes.evaluation_peers import Fleet
from tests.unit.evaluation.rankings.desk import ITEMS, Choir, Desk
from tests.unit.evaluation.runs.stored_runs import opened
from tests.unit.evaluation.runs.suite_books import Book


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[RankingStore, RunStore]]:
    async with opened(tmp_path / "runs.sqlite") as engine:
        yield RankingStore(engine), RunStore(engine)


@pytest.fixture
def choir(fleet: Fleet) -> Choir:
    fleet.generator = Choir()
    fleet.ledger.drawings.batch = 16
    return fleet.generator


@pytest.fixture
def book(make_task: Any, make_item: Any) -> Book:
    suite = Suite("demo", "a suite", (make_task(), make_task("other")))
    return Book(suite, [make_item(f"item {index}") for index in range(ITEMS)], can_draw=True)


@pytest.fixture
def desk(stores: tuple[RankingStore, RunStore], book: Book, fleet: Fleet, choir: Choir) -> Desk:
    return Desk(stores, book, fleet)

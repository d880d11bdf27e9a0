"""Everybody looks often; and a suite of a thousand items that may be drawn."""

from typing import Any

import pytest

from services.evaluation.runs import block_sharing, block_store, stored_board
from services.evaluation.runs.block_store import StoredBlocks
from services.evaluation.tasks import Suite
from tests.unit.evaluation.runs.sharing.blocks.stepped_replicas import ITEMS
from tests.unit.evaluation.runs.suite_books import Book, some_items


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everybody look often, so that tests need not wait."""
    monkeypatch.setattr(StoredBlocks, "poll_seconds", 0.02)
    monkeypatch.setattr(StoredBlocks, "renewal_seconds", 0.05)
    monkeypatch.setattr(stored_board, "_RENEWAL_SECONDS", 0.2)
    # And nobody be taken for absent because the machine is slow.
    monkeypatch.setattr(block_store, "_WAITING_RENEWALS", 300)
    monkeypatch.setattr(block_sharing, "_UNCLAIMED_SECONDS", 60.0)


@pytest.fixture
def book(make_task: Any, make_item: Any, fleet: Any) -> Book:
    fleet.ledger.drawings.batch = ITEMS
    items = some_items(make_item, ITEMS, right=0.6)
    return Book(Suite("demo", "a suite", (make_task(),)), items, can_draw=True)

"""When helpers are called, and how many places they get."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.runs.blocks import BLOCK_ITEMS, part_of_others, wants_helpers
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.decisions import TaskDecision
from services.evaluation.runs.gates import Goal
from services.evaluation.runs.record import Run, RunState


@given(st.integers(0, 4096), st.integers(0, 64))
def test_the_owner_keeps_as_many_places_as_each_helper_gets(place_count: int, helper_count: int) -> None:
    others = part_of_others(place_count, helper_count)
    own = place_count - others
    assert others % BLOCK_ITEMS == 0
    assert own * (helper_count + 1) >= place_count
    assert own < place_count / (helper_count + 1) + BLOCK_ITEMS


@pytest.mark.parametrize(
    ("changes", "decided", "wants"),
    [
        ({}, {}, True),
        ({"concurrency": 63}, {}, False),
        ({"state": RunState.PENDING}, {}, False),
        ({"goal": Goal(budget=Budget(items=600))}, {}, False),
        ({}, {"expected_remaining_count": 100}, False),
        ({}, {"completed_count": 900}, False),
        ({}, {"is_decided": True}, False),
    ],
)
def test_helpers_come_only_where_enough_is_left(changes: dict[str, Any], decided: dict[str, Any], wants: bool) -> None:
    values: dict[str, Any] = {
        "task": "t", "metric": "m", "questions": (), "is_decided": False, "value": None, "lower": 0.0, "upper": 1.0,
        "confidence_level": 0.95, "method": "x", "completed_count": 10, "drawn_count": 100, "item_count": 1000,
        "saved_count": 900, **decided,
    }  # fmt: skip
    run = Run("r", "demo", "s", "models/tiny", "m", seed=1, concurrency=64, create_time=1.0, state=RunState.RUNNING)
    run = dataclasses.replace(run, decisions=(TaskDecision(**values),), **changes)
    assert wants_helpers(run) is wants

"""Ids and deadlines follow the work, and survive metadata whatever they hold."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.calls import bind_deadline, bind_ids, current_scope, decode_id, encode_id, outgoing_ids
from services.runtime.deadlines import CHILD_MARGIN_SECONDS, child_timeout, child_timeout_or_none, remaining_seconds


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=256))
def test_any_id_survives_metadata(value: str) -> None:
    encoded = encode_id(value)
    assert encoded.isascii()
    assert encoded == "" or encoded.isprintable()
    assert decode_id(encoded) == value


@given(st.text(st.characters(codec=None)) | st.binary())
def test_no_received_id_is_too_much(value: str | bytes) -> None:
    assert len(decode_id(value)) <= 256


def test_bound_ids_add_up_and_end_with_their_block() -> None:
    assert outgoing_ids() == ()
    with bind_ids(run_id="runs/7"), bind_ids(item_id="xstest/é", run_id=None):
        assert current_scope().ids.fields() == {"run_id": "runs/7", "item_id": "xstest/é"}
        assert outgoing_ids() == (("x-run-id", "runs/7"), ("x-item-id", "xstest/%C3%A9"))
    assert current_scope().ids.fields() == {}


async def test_tasks_inherit_the_scope_of_their_maker() -> None:
    with bind_ids(run_id="r"), bind_deadline(60):
        task = asyncio.create_task(asyncio.to_thread(lambda: (current_scope().ids.run_id, remaining_seconds())))
    run_id, remaining = await task
    assert run_id == "r"
    assert remaining is not None
    assert current_scope().ids.run_id is None


def test_without_a_call_only_the_cap_bounds_a_child() -> None:
    assert remaining_seconds() is None
    assert child_timeout(3.0) == 3.0
    assert child_timeout_or_none(None) is None


def test_a_child_gets_what_is_left_less_a_margin() -> None:
    with bind_deadline(10.0):
        remaining = remaining_seconds()
        assert remaining is not None
        assert 0 < child_timeout(100.0) <= remaining - CHILD_MARGIN_SECONDS
        assert child_timeout(1.0) == 1.0
        with bind_deadline(None):
            assert remaining_seconds() is None


def test_time_never_goes_below_zero() -> None:
    with bind_deadline(-1.0):
        assert remaining_seconds() == 0.0
        assert child_timeout(1.0) == 0.0
    with bind_deadline(CHILD_MARGIN_SECONDS / 2):
        assert child_timeout(1.0) == pytest.approx(0.0)

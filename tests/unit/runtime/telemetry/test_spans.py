"""Spans nest as the work does, travel with it, and cost nothing where nobody records them."""

import asyncio

import pytest

from services.runtime.calls import bind_ids, current_scope, current_traceparent, leave_item, outgoing_ids, outside_item
from services.runtime.errors import NotFoundError
from services.runtime.gathering import Gatherer
from services.runtime.telemetry.spans import NO_SPAN, carried_traces, item_spans, sharing_traces, span, tracing_with
from tests.fakes.recording_tracer import RecordingTracer

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
SAMPLED, UNSAMPLED = TRACE + "01", TRACE + "00"
OTHER = "00-1bf92f3577b34da6a3ce929d0e0e4736-10f067aa0ba902b7-01"


def test_spans_nest_and_carry_the_ids_of_the_work() -> None:
    tracer = RecordingTracer()
    with tracing_with(tracer), bind_ids(run_id="r1"), span("item", begins_trace=True, item_id="t/1") as outer:
        assert current_traceparent() == outer.traceparent
        assert ("x-item-id", "t/1") in outgoing_ids()
        assert ("traceparent", outer.traceparent) in outgoing_ids()
        with span("call", "client", attributes={"a": 1}):
            pass
        assert current_traceparent() == outer.traceparent
    item, call = tracer.spans
    assert (call.parent, call.trace_id, item.parent) == (item.traceparent, item.trace_id, "")
    assert item.attributes == {"evalfleet.run.id": "r1", "evalfleet.item.id": "t/1"}
    assert call.attributes == {"evalfleet.run.id": "r1", "evalfleet.item.id": "t/1", "a": 1}
    assert [each.has_ended for each in tracer.spans] == [True, True]
    assert current_traceparent() == ""


def test_log_lines_have_the_ids_of_trace_and_span() -> None:
    with tracing_with(RecordingTracer()), span("item", parent=SAMPLED) as inner:
        fields = current_scope().ids.fields()
    assert fields == {"trace_id": SAMPLED.split("-")[1], "span_id": inner.traceparent.split("-")[2]}


def test_a_failure_is_told_by_its_reason_alone() -> None:
    tracer = RecordingTracer()
    for error in (
        NotFoundError("the secret prompt", reason="NOTHING_THERE"),
        ValueError("secret"),
        asyncio.CancelledError(),
    ):
        with tracing_with(tracer), pytest.raises(type(error)), span("x"):
            raise error
    assert [each.failure for each in tracer.spans] == ["NOTHING_THERE", "ValueError", "CANCELLED"]
    assert all(each.has_ended for each in tracer.spans)


def test_what_is_not_sampled_stays_so_all_the_way() -> None:
    tracer = RecordingTracer(samples_new=False)
    with tracing_with(tracer), span("item", begins_trace=True, item_id="t/1") as outer:
        assert current_traceparent() == outer.traceparent
        assert outer.traceparent.endswith("-00")
        with span("call"):
            assert current_traceparent() == outer.traceparent
            assert carried_traces() == ()
        # An item's id travels with traces that somebody will read.
        assert current_scope().ids.item_id is None
    with tracing_with(RecordingTracer()) as _, span("call", parent=UNSAMPLED) as inner:
        assert not inner.is_recording
        assert current_traceparent() == UNSAMPLED
    assert tracer.spans == []


def test_without_a_tracer_nothing_changes_but_what_others_record_is_handed_on() -> None:
    with span("item", begins_trace=True, item_id="t/1") as opened:
        assert opened is NO_SPAN
        assert outgoing_ids() == ()
    with span("item", parent=SAMPLED):
        assert outgoing_ids() == (("traceparent", SAMPLED),)
        assert carried_traces() == (SAMPLED,)
    with item_spans("batch", [(SAMPLED, ""), (UNSAMPLED, ""), ("nonsense", "")]):
        assert carried_traces() == (SAMPLED,)
    assert carried_traces() == ()


def test_items_of_a_shared_call_have_spans_in_their_own_traces() -> None:
    tracer = RecordingTracer()
    with tracing_with(tracer), span("call") as call:
        with item_spans("item", [(SAMPLED, "a"), ("", "b"), (OTHER, "c"), (UNSAMPLED, "d")]):
            first, second = tracer.named("item")
            assert carried_traces() == (call.traceparent, first.traceparent, second.traceparent)
        with pytest.raises(NotFoundError), item_spans("failed", [(SAMPLED, "")]):
            raise NotFoundError("nothing", reason="NOTHING")
    assert [(each.parent, each.links, each.attributes) for each in (first, second)] == [
        (SAMPLED, (call.traceparent,), {"evalfleet.item.id": "a"}),
        (OTHER, (call.traceparent,), {"evalfleet.item.id": "c"}),
    ]
    assert [each.failure for each in tracer.named("failed")] == ["NOTHING"]
    assert all(each.has_ended for each in tracer.spans)


async def test_a_gathered_call_belongs_to_no_item_and_knows_the_traces_of_all() -> None:
    seen: list[tuple[str, tuple[str, ...]]] = []

    async def call(requests: "list[str]") -> "list[str]":
        seen.append((current_traceparent(), carried_traces()))
        return requests

    gatherer: Gatherer[str, str] = Gatherer(call, largest=8, concurrency=1)  # type: ignore[arg-type]

    async def ask(traceparent: str) -> None:
        with span("item", parent=traceparent):
            await gatherer.ask([traceparent])

    await asyncio.gather(ask(SAMPLED), ask(OTHER), ask(UNSAMPLED), ask(""))
    assert all(own == "" for own, _ in seen)
    assert {trace for _, traces in seen for trace in traces} == {SAMPLED, OTHER}


async def test_what_is_begun_for_many_leaves_its_item() -> None:
    with span("item", parent=SAMPLED), bind_ids(item_id="i", run_id="r"), sharing_traces([OTHER]):
        with outside_item():
            assert current_scope().ids.fields() == {"run_id": "r"}

        async def work() -> None:
            leave_item()
            assert current_scope().ids.fields() == {"run_id": "r"}

        await asyncio.create_task(work())
        assert current_traceparent() == SAMPLED

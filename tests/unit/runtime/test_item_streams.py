"""Every item of a stream ends in exactly one outcome, and a stream holds no more than it may."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runtime import item_streams, time_limits
from services.runtime.deadlines import bind_deadline, remaining_seconds
from services.runtime.errors import CancelledCallError, FleetError, InvalidArgumentError
from services.runtime.item_streams import Item, ItemIds, ItemStream, Outcome, StreamLimits

LIMITS = StreamLimits(in_flight=4, item_seconds=60.0)


class Source:
    """Items from memory, which notes how many were taken."""

    def __init__(self, items: Iterable[Item[str]]) -> None:
        self._items = iter(items)
        self.taken = 0

    def __aiter__(self) -> AsyncIterator[Item[str]]:
        return self

    async def __anext__(self) -> Item[str]:
        await asyncio.sleep(0)
        item = next(self._items, None)
        if item is None:
            raise StopAsyncIteration
        self.taken += 1
        return item


async def echo(request: str) -> str:
    return request.upper()


async def collected(items: Iterable[Item[str]], limits: StreamLimits = LIMITS) -> list[Outcome[str]]:
    return [outcome async for outcome in ItemStream(Source(items), echo, limits).outcomes()]


def reason(outcome: Outcome[str]) -> str:
    assert isinstance(outcome.result, FleetError)
    return outcome.result.reason


KINDS = ("good", "slow", "failing", "bug", "bad", "timeout", "inner cancel")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e", "x" * 300]), st.sampled_from(KINDS)), max_size=30),
    st.integers(1, 8),
    st.lists(st.integers(0, 5), min_size=30, max_size=30),
)
async def test_every_item_ends_in_exactly_one_outcome(
    plan: list[tuple[str, str]], in_flight: int, pauses: list[int]
) -> None:
    held = most_held = 0
    delays = list(pauses)

    async def work(request: str) -> str:
        nonlocal held, most_held
        held += 1
        most_held = max(held, most_held)
        try:
            for _ in range(delays.pop()):
                await asyncio.sleep(0)
            match request:
                case "failing":
                    raise InvalidArgumentError("no")
                case "bug":
                    raise ZeroDivisionError
                case "inner cancel":
                    raise asyncio.CancelledError
                case "timeout":
                    raise TimeoutError
            return request
        finally:
            held -= 1

    items = [Item(item_id, InvalidArgumentError("bad") if kind == "bad" else kind) for item_id, kind in plan]
    outcomes = [each async for each in ItemStream(Source(items), work, StreamLimits(in_flight, 60.0)).outcomes()]
    assert Counter(outcome.item_id for outcome in outcomes) == Counter(item_id for item_id, _ in plan)
    assert most_held <= in_flight
    for item_id in {"a", "b", "c", "d", "e"} & {item_id for item_id, _ in plan}:
        mine = [outcome.result for outcome in outcomes if outcome.item_id == item_id]
        reused = [each for each in mine if isinstance(each, FleetError) and each.reason == "ITEM_ID_REUSED"]
        bad_again = [kind for own_id, kind in plan if own_id == item_id][1:].count("bad")
        assert len(mine) - 1 == len(reused) + bad_again
    for outcome in outcomes:
        if outcome.item_id in ("", "x" * 300):
            assert isinstance(outcome.result, InvalidArgumentError)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 8))
async def test_closing_a_stream_at_any_moment_leaves_no_work(total: int, taken: int, in_flight: int) -> None:
    running: set[str] = set()

    async def work(request: str) -> str:
        running.add(request)
        try:
            await asyncio.sleep(0 if int(request) % 3 else 0.001)
            return request
        finally:
            running.discard(request)

    outcomes = ItemStream(
        Source(Item(str(n), str(n)) for n in range(total)), work, StreamLimits(in_flight, 60.0)
    ).outcomes()
    seen = set()
    for _ in range(taken):
        outcome = await anext(outcomes, None)
        if outcome is None:
            break
        assert outcome.item_id not in seen
        seen.add(outcome.item_id)
    await outcomes.aclose()
    assert running == set()
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("stream item")] == []


async def test_a_cancelled_stream_cancels_its_work() -> None:
    cancelled, started = 0, asyncio.Semaphore(0)

    async def work(request: str) -> str:
        nonlocal cancelled
        started.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return request

    async def consume() -> None:
        async for _ in ItemStream(Source(Item(str(n), "") for n in range(9)), work, LIMITS).outcomes():
            pass

    task = asyncio.create_task(consume())
    for _ in range(4):
        await started.acquire()
    task.cancel()
    await asyncio.wait([task])
    assert cancelled == 4


async def test_nothing_is_read_while_outcomes_are_not_taken() -> None:
    source = Source(Item(str(n), "x") for n in range(100))
    outcomes = ItemStream(source, echo, LIMITS).outcomes()
    await anext(outcomes)
    for _ in range(200):
        await asyncio.sleep(0)
    assert source.taken == 4
    await anext(outcomes)
    for _ in range(200):
        await asyncio.sleep(0)
    assert source.taken == 5
    await outcomes.aclose()


async def test_fast_items_overtake_slow_ones() -> None:
    gate = asyncio.Event()

    async def work(request: str) -> str:
        if request == "slow":
            await gate.wait()
        return request

    order = []
    async for outcome in ItemStream(
        Source([Item("1", "slow"), Item("2", "x"), Item("3", "x")]), work, LIMITS
    ).outcomes():
        order.append(outcome.item_id)
        if outcome.item_id == "3":
            gate.set()
    assert order == ["2", "3", "1"]


async def test_an_item_has_a_time_limit_of_its_own_in_a_stream_without_one() -> None:
    async def work(request: str) -> str:
        left = remaining_seconds()
        assert left is not None
        assert left <= 0.05
        await asyncio.Event().wait()
        return ""

    limits = StreamLimits(in_flight=2, item_seconds=0.05)
    [outcome] = [each async for each in ItemStream(Source([Item("1", "x")]), work, limits).outcomes()]
    assert isinstance(outcome.result, TimeoutError)


async def test_a_stream_with_a_deadline_reports_its_slow_items_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(request: str) -> str:
        await asyncio.Event().wait()
        return ""

    # Nearly all of the stream's time, so that a busy machine cannot use up what is kept back.
    monkeypatch.setattr(time_limits, "_MARGIN_SHARE", 0.999)
    monkeypatch.setattr(time_limits, "_LARGEST_MARGIN_SECONDS", 60.0)
    with bind_deadline(60.0):
        outcomes = [each async for each in ItemStream(Source([Item("1", "x")]), work, LIMITS).outcomes()]
        left = remaining_seconds()
    assert isinstance(outcomes[0].result, TimeoutError)
    assert left


@pytest.mark.parametrize(("stream_seconds", "most_seconds"), [(10.0, 9.5), (1000.0, 999.0)])
def test_items_have_a_little_less_time_than_their_stream(stream_seconds: float, most_seconds: float) -> None:
    assert time_limits.item_seconds(7.0) == 7.0
    with bind_deadline(stream_seconds):
        assert 0.5 * stream_seconds < time_limits.item_seconds(5000.0) <= most_seconds
        assert time_limits.item_seconds(0.25) == 0.25


async def test_an_id_may_be_used_again_once_it_is_long_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_streams, "REMEMBERED_ITEM_IDS", 2)
    outcomes = await collected([Item(each, "x") for each in ("a", "b", "c", "c", "a")], StreamLimits(1, 60.0))
    assert [isinstance(outcome.result, str) for outcome in outcomes] == [True, True, True, False, True]
    assert reason(outcomes[3]) == "ITEM_ID_REUSED"


async def test_work_that_is_cancelled_from_below_is_still_an_outcome() -> None:
    async def work(request: str) -> str:
        raise asyncio.CancelledError

    [outcome] = [each async for each in ItemStream(Source([Item("1", "x")]), work, LIMITS).outcomes()]
    assert isinstance(outcome.result, CancelledCallError)


async def test_a_source_that_breaks_off_ends_the_stream_with_its_error() -> None:
    class Broken(Source):
        async def __anext__(self) -> Item[str]:
            if self.taken == 1:
                raise ConnectionResetError
            return await super().__anext__()

    with pytest.raises(ConnectionResetError):
        async for _ in ItemStream(Broken([Item("1", "x")]), echo, LIMITS).outcomes():
            pass


async def test_items_may_share_an_id_that_their_reader_looks_after() -> None:
    ids = ItemIds()
    ids.open("shared")
    items = [Item("shared", "x", is_named_here=False), Item("shared", "y"), Item("shared", "z", is_named_here=False)]
    outcomes = [each async for each in ItemStream(Source(items), echo, LIMITS, ids).outcomes()]
    by_request = {each.request: each for each in outcomes}
    assert (by_request["x"].result, by_request["z"].result) == ("X", "Z")
    assert reason(by_request["y"]) == "ITEM_ID_REUSED"
    assert not ids.is_done("shared")
    ids.close("shared")
    assert ids.is_done("shared")


async def test_outcomes_wait_for_company_until_they_fill_a_group() -> None:
    asked = 0

    def delay_seconds() -> float:
        nonlocal asked
        asked += 1
        return 0.0

    async def bad(count: int) -> AsyncIterator[Item[str]]:
        # What is wrong has its outcome once it is read, and nothing here gives others time before all are.
        for number in range(count):
            yield Item(str(number), InvalidArgumentError("bad"))

    async def sizes(count: int) -> list[int]:
        stream = ItemStream(bad(count), echo, StreamLimits(in_flight=16, item_seconds=60.0))
        return [len(group) async for group in stream.groups(largest=4, delay_seconds=delay_seconds)]

    assert (await sizes(8), asked) == ([4, 4], 0)
    assert (await sizes(2), asked) == ([2], 1)

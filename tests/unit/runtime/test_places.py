"""Places go to callers in turn, by the time for which each held them."""

import asyncio

import pytest

from services.runtime.calls import bind_ids
from services.runtime.places import Places


async def take(places: Places, caller: str, order: list[str]) -> None:
    with bind_ids(caller=caller):
        async with places.place():
            order.append(caller)
            await asyncio.sleep(0)


async def test_a_caller_with_much_does_not_hold_up_one_with_little() -> None:
    places = Places(1)
    order: list[str] = []
    async with asyncio.TaskGroup() as group, places.place():
        for _ in range(50):
            group.create_task(take(places, "many", order))
        await asyncio.sleep(0)
        for _ in range(3):
            group.create_task(take(places, "few", order))
        await asyncio.sleep(0)
        assert places.waiting == 53
    assert order.index("few") <= 1
    assert "few" not in order[25:]


async def test_time_is_what_is_shared() -> None:
    places = Places(1)
    order: list[str] = []

    async def hold(caller: str, seconds: float) -> None:
        with bind_ids(caller=caller):
            async with places.place():
                order.append(caller)
                await asyncio.sleep(seconds)

    async with asyncio.TaskGroup() as group:
        group.create_task(hold("slow", 0.05))
        await asyncio.sleep(0)
        for _ in range(3):
            group.create_task(hold("slow", 0.05))
        for _ in range(10):
            group.create_task(hold("quick", 0.0))
    assert order[:11] == ["slow", *["quick"] * 10]


async def test_who_gives_up_leaves_the_queue_and_loses_no_place() -> None:
    places = Places(1)
    order: list[str] = []
    async with places.place():
        first, second = (asyncio.create_task(take(places, name, order)) for name in ("first", "second"))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert places.waiting == 1
    # Its place has come, and it is cancelled before it knows.
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await take(places, "third", order)
    assert order == ["third"]

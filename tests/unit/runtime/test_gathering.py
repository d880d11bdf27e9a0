import asyncio
from collections.abc import Sequence

import pytest

from services.runtime.gathering import Gatherer


class Service:
    """Doubles numbers; a test holds its answers back."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self, requests: Sequence[int]) -> Sequence[int]:
        self.calls.append(list(requests))
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [2 * each for each in requests]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_in_the_same_moment_shares_a_call() -> None:
    service = Service()
    gatherer = Gatherer(service, largest=4, concurrency=1)
    tasks = [asyncio.create_task(gatherer.ask([number, number + 100])) for number in range(4)]
    await settle()
    assert service.calls == [[0, 100, 1, 101]]
    service.open.set()
    assert await asyncio.gather(*tasks) == [[2 * number, 2 * number + 200] for number in range(4)]
    assert service.calls == [[0, 100, 1, 101], [2, 102, 3, 103]]


async def test_a_lonely_request_is_sent_at_once() -> None:
    service = Service()
    service.open.set()
    gatherer = Gatherer(service, largest=4)
    assert await gatherer.ask([3]) == [6]
    assert await gatherer.ask([4]) == [8]
    assert service.calls == [[3], [4]]
    assert await gatherer.ask([]) == []


async def test_a_call_is_bounded_by_the_size_of_its_requests_too() -> None:
    service = Service()
    service.open.set()
    gatherer = Gatherer(service, largest=4, concurrency=1, size=lambda number: number, largest_size=10)
    asked = [5, 5, 1, 2, 3, 4, 99, 10, 1]
    assert await gatherer.ask(asked) == [2 * number for number in asked]
    assert service.calls == [[5, 5], [1, 2, 3, 4], [99], [10], [1]]


async def test_a_failure_is_everybodys_in_the_call_and_nobody_elses() -> None:
    service = Service()
    service.failure = ValueError("no")
    gatherer = Gatherer(service, largest=2, concurrency=1)
    tasks = [asyncio.create_task(gatherer.ask([number])) for number in range(3)]
    await settle()
    service.open.set()
    for task in tasks[:2]:
        with pytest.raises(ValueError, match="no"):
            await task
    with pytest.raises(ValueError, match="no"):
        await tasks[2]
    service.failure = None
    assert await gatherer.ask([5]) == [10]


async def test_a_cancelled_request_leaves_the_others_alone() -> None:
    service = Service()
    gatherer = Gatherer(service, largest=2, concurrency=1)
    tasks = [asyncio.create_task(gatherer.ask([number])) for number in range(4)]
    await settle()
    tasks[0].cancel()
    tasks[2].cancel()
    service.open.set()
    assert await tasks[1] == [2]
    assert await tasks[3] == [6]
    assert service.calls == [[0, 1], [3]]


async def test_closing_gives_up_the_calls_under_way_and_sends_no_more() -> None:
    service = Service()
    gatherer = Gatherer(service, largest=1, concurrency=1)
    tasks = [asyncio.create_task(gatherer.ask([number])) for number in range(3)]
    await settle()
    await gatherer.close()
    assert service.calls == [[0]]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError] * 3

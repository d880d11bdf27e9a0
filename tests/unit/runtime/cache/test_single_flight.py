import asyncio

import pytest

from services.runtime.cache.single_flight import SingleFlight


class Work:
    """A computation that waits to be let go, and counts."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.let_go = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> str:
        self.started += 1
        number = self.started
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return f"result {number}"


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_sixty_four_callers_cause_one_computation() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    calls = [asyncio.create_task(flights.run("k", work)) for _ in range(64)]
    await settle()
    work.let_go.set()
    results = await asyncio.gather(*calls)
    assert work.started == 1
    assert {result for result, _ in results} == {"result 1"}
    assert sorted(shared for _, shared in results) == [False] + [True] * 63
    assert len(flights) == 0


async def test_other_keys_and_later_calls_compute_anew() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    work.let_go.set()
    assert await flights.run("a", work) == ("result 1", False)
    assert await flights.run("a", work) == ("result 2", False)
    assert await flights.run("b", work) == ("result 3", False)


@pytest.mark.parametrize("leaving", [0, 1])
async def test_a_cancelled_waiter_leaves_the_others_alone(leaving: int) -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    calls = [asyncio.create_task(flights.run("k", work)) for _ in range(3)]
    await settle()
    calls[leaving].cancel()
    await settle()
    assert (work.started, work.cancelled) == (1, 0)
    work.let_go.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(outcomes.pop(leaving), asyncio.CancelledError)
    assert [outcome[0] for outcome in outcomes if isinstance(outcome, tuple)] == ["result 1"] * 2


async def test_the_last_waiter_takes_the_computation_with_it() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    calls = [asyncio.create_task(flights.run("k", work)) for _ in range(3)]
    await settle()
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert (work.started, work.cancelled, len(flights)) == (1, 1, 0)
    later = Work()
    later.let_go.set()
    assert await flights.run("k", later) == ("result 1", False)


async def test_a_failure_is_everybodys() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    work.failure = ValueError("no")
    calls = [asyncio.create_task(flights.run("k", work)) for _ in range(3)]
    await settle()
    work.let_go.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3
    assert work.started == 1


async def test_a_personal_failure_is_its_owners_alone() -> None:
    flights: SingleFlight[str, str] = SingleFlight(lambda error: isinstance(error, TimeoutError))
    hurried, patient = Work(), Work()
    hurried.failure = TimeoutError()
    first = asyncio.create_task(flights.run("k", hurried))
    others = [asyncio.create_task(flights.run("k", patient)) for _ in range(3)]
    await settle()
    hurried.let_go.set()
    patient.let_go.set()
    with pytest.raises(TimeoutError):
        await first
    assert {result for result, _ in await asyncio.gather(*others)} == {"result 1"}
    assert (hurried.started, patient.started) == (1, 1)

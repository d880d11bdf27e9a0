"""A limit of calls in flight that grows while answers are quick and falls when the peer pushes back."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.adaptive_limit import AdaptiveLimit
from services.runtime.errors import FleetError, InvalidArgumentError, ResourceExhaustedError, UnavailableError


class Peer:
    """A fake peer and its clock: in each second of its time it answers the ``parallel`` calls that came first."""

    def __init__(self, parallel: int) -> None:
        self.now = 0.0
        self.parallel = parallel
        self.in_flight = 0
        self.most = 0
        self.open: list[asyncio.Future[None]] = []

    def clock(self) -> float:
        return self.now

    async def call(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        self.open.append(turn)
        try:
            await turn
        finally:
            self.in_flight -= 1

    async def tick(self) -> None:
        """Let a second pass."""
        await settle()
        self.now += 1.0
        for turn in self.open[: self.parallel]:
            if not turn.done():
                turn.set_result(None)
        del self.open[: self.parallel]
        await settle()


async def settle() -> None:
    """Let everything happen that needs no further answer."""
    for _ in range(5):
        await asyncio.sleep(0)


async def keep_asking(limit: AdaptiveLimit, peer: Peer, *, askers: int, ticks: int) -> None:
    async def ask() -> None:
        while True:
            await limit.run(peer.call)

    asking = [asyncio.create_task(ask()) for _ in range(askers)]
    for _ in range(ticks):
        await peer.tick()
    for each in asking:
        each.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


def failing(error: FleetError) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        raise error

    return call


async def test_it_grows_while_a_peer_answers_as_fast_as_ever() -> None:
    peer = Peer(parallel=1000)
    limit = AdaptiveLimit(first=4, clock=peer.clock)
    await keep_asking(limit, peer, askers=500, ticks=60)
    assert limit.limit > 200
    assert limit.in_flight == 0


async def test_it_grows_no_further_than_allowed() -> None:
    peer = Peer(parallel=1000)
    limit = AdaptiveLimit(first=4, largest=20, clock=peer.clock)
    await keep_asking(limit, peer, askers=500, ticks=60)
    assert limit.limit == peer.most == 20


async def test_it_stays_where_it_is_while_little_is_asked() -> None:
    peer = Peer(parallel=1000)
    limit = AdaptiveLimit(first=64, clock=peer.clock)
    await keep_asking(limit, peer, askers=8, ticks=200)
    assert limit.limit == 64


async def test_a_queue_at_the_peer_ends_the_growth() -> None:
    peer = Peer(parallel=20)
    limit = AdaptiveLimit(first=4, clock=peer.clock)
    await keep_asking(limit, peer, askers=500, ticks=300)
    assert 20 <= limit.limit <= 80
    assert peer.most <= 80


@pytest.mark.parametrize("error", [ResourceExhaustedError("enough"), UnavailableError("away")])
async def test_pushback_lowers_it_once_for_all_that_was_under_way(error: FleetError) -> None:
    now = [0.0]
    limit = AdaptiveLimit(first=100, clock=lambda: now[0])
    gate = asyncio.Event()

    async def refuse() -> None:
        await gate.wait()
        raise error

    asked = [asyncio.create_task(limit.run(refuse)) for _ in range(50)]
    await settle()
    now[0] = 1.0
    gate.set()
    assert all(isinstance(each, FleetError) for each in await asyncio.gather(*asked, return_exceptions=True))
    assert limit.limit == 70
    now[0] = 2.0
    with pytest.raises(FleetError):
        await limit.run(failing(error))
    assert limit.limit == 49


async def test_a_peer_that_is_away_is_met_by_one_call_at_a_time() -> None:
    now = [0.0]
    limit = AdaptiveLimit(first=64, clock=lambda: now[0])
    for _ in range(20):
        now[0] += 1.0
        with pytest.raises(UnavailableError):
            await limit.run(failing(UnavailableError("away")))
    assert limit.limit == 1
    peer = Peer(parallel=1000)
    asked = [asyncio.create_task(limit.run(peer.call)) for _ in range(30)]
    await settle()
    assert peer.in_flight == 1
    for _ in range(30):
        await peer.tick()
    await asyncio.gather(*asked)
    assert limit.limit > 1


async def test_an_item_that_is_wrong_by_itself_changes_nothing() -> None:
    limit = AdaptiveLimit(first=10)
    for _ in range(50):
        with pytest.raises(InvalidArgumentError):
            await limit.run(failing(InvalidArgumentError("no")))
    assert (limit.limit, limit.in_flight) == (10, 0)


async def test_turns_come_in_the_order_of_asking() -> None:
    limit = AdaptiveLimit(first=1)
    order: list[int] = []

    async def note(number: int) -> None:
        async def call() -> None:
            order.append(number)
            await asyncio.sleep(0)

        await limit.run(call)

    await asyncio.gather(*(note(number) for number in range(9)))
    assert order == list(range(9))


@given(st.lists(st.sampled_from(["ask", "cancel", "answer", "refuse"]), max_size=80), st.integers(1, 4))
def test_no_place_is_lost_whatever_is_cancelled(steps: list[str], first: int) -> None:
    async def play() -> None:
        limit = AdaptiveLimit(first=first, largest=4)
        answers: list[asyncio.Future[None]] = []

        async def call() -> None:
            answers.append(asyncio.get_running_loop().create_future())
            await answers[-1]

        asked: list[asyncio.Task[None]] = []
        for step in steps:
            waiting = [each for each in answers if not each.done()]
            match step:
                case "ask":
                    asked.append(asyncio.create_task(limit.run(call)))
                case "cancel" if asked:
                    asked.pop().cancel()
                case "answer" if waiting:
                    waiting[0].set_result(None)
                case "refuse" if waiting:
                    waiting[-1].set_exception(ResourceExhaustedError("enough"))
            if len(steps) % 2:
                await settle()
            assert 0 <= limit.in_flight <= 4
        while any(not each.done() for each in asked):
            await settle()
            for each in answers:
                if not each.done():
                    each.set_result(None)
        await asyncio.gather(*asked, return_exceptions=True)
        await settle()
        assert limit.in_flight == 0
        await limit.run(lambda: asyncio.sleep(0))

    asyncio.run(play())

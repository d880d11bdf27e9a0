"""A slow call and its second request, on an event loop: the first answer counts, and the other call is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from evalfleet.hedging import Hedger

ResponseT = TypeVar("ResponseT")


async def first_answer(ask: Callable[[], Awaitable[ResponseT]], hedger: Hedger, request: object) -> ResponseT:
    """Return the first answer to a request that is sent again if it is slow.

    Args:
        ask: sends it and waits for its answer.
        hedger: says when it is slow, and whether it may be sent again.
        request: what is sent.

    Raises:
        grpc.RpcError: what the last of them ended with, if none was answered.
    """
    clock = asyncio.get_running_loop().time
    started_at = clock()
    delay = hedger.delay_seconds(request)
    calls: set[asyncio.Future[ResponseT]] = {asyncio.ensure_future(ask())}
    try:
        if delay is not None:
            await asyncio.wait(calls, timeout=delay)
            if not any(each.done() for each in calls) and hedger.may_spend():
                calls.add(asyncio.ensure_future(ask()))
        answer = await _first_of(set(calls))
    finally:
        await _cancelled(calls)
    hedger.answered(request, clock() - started_at)
    return answer


async def _first_of(waiting: set[asyncio.Future[ResponseT]]) -> ResponseT:
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [each for each in done if not each.cancelled() and each.exception() is None]
        if answered or not waiting:
            return await (answered or list(done))[0]


async def _cancelled(calls: set[asyncio.Future[ResponseT]]) -> None:
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

"""A slow call and its second request: whichever is answered first counts, and the other is cancelled."""

from __future__ import annotations  # grpc's futures are generic in its type stubs alone

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import grpc

from evalfleet.hedging import Hedger

ResponseT = TypeVar("ResponseT")


def first_answer(begin: Callable[[], grpc.Future[ResponseT]], hedger: Hedger, request: object) -> ResponseT:
    """Return the first answer to a request that is sent again if it is slow.

    Args:
        begin: sends it.
        hedger: says when it is slow, and whether it may be sent again.
        request: what is sent.

    Raises:
        grpc.RpcError: what the last of them ended with, if none was answered.
    """
    started_at = time.monotonic()
    delay = hedger.delay_seconds(request)
    something_ended = threading.Event()
    calls = [begin()]
    calls[0].add_done_callback(lambda _call: something_ended.set())
    try:
        if delay is not None and not something_ended.wait(delay) and hedger.may_spend():
            calls.append(begin())
            calls[1].add_done_callback(lambda _call: something_ended.set())
        answer = _first_of(calls, something_ended)
    finally:
        for each in calls:
            each.cancel()
    hedger.answered(request, time.monotonic() - started_at)
    return answer


def _first_of(calls: list[grpc.Future[ResponseT]], something_ended: threading.Event) -> ResponseT:
    waiting = list(calls)
    while True:
        # Every call has a deadline, so that one ends.
        something_ended.wait()
        something_ended.clear()
        for each in [each for each in waiting if each.done()]:
            if each.exception() is None or len(waiting) == 1:
                return each.result()
            waiting.remove(each)

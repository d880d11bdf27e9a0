"""Lets the requests of one call share streams to the inference server: a stream costs more than a request on it.

Only what mostly ends together shares a stream, because a cancel ends a whole stream: whoever handles a call with many
items says so with ``sharing_streams``, and the single-answer requests made inside share. A request that is given up
alone goes on at the server as long as others wait on its stream; nothing more is put on that stream, and when nobody
waits on it any more it is cancelled, and the work that was given up with it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2 as kserve

from services.inference.engine_watch import EngineWatch
from services.inference.errors import ENGINE_CRASHED, from_rpc_error, from_triton_text, says_process_is_gone
from services.runtime.errors import DeadlineExceededError, FleetError, InternalError, UnavailableError
from services.runtime.expiries import Expiries

LARGEST_SHARED_BYTES: Final = 256 * 1024
"""A message that the server refuses for its size would end its stream, and with it the requests of others."""
_REQUESTS_A_STREAM: Final = 16
_IDLE_SECONDS: Final = 0.05
"""A stream that nobody waits on is closed soon, but the requests of the next moment still find it."""
_SHARED_IDLE_SECONDS: Final = 1.0
"""Likewise of one that has carried several: the requests of a call come in bursts, each of which would open it anew."""

OpenStream = Callable[[AsyncIterator[kserve.ModelInferRequest]], Any]
Answer = asyncio.Future[kserve.ModelInferResponse]

# A context variable, because the requests are made in tasks far below whoever knows what ends together.
_sharers: ContextVar[object | None] = ContextVar("evalfleet_stream_sharers", default=None)


def sharing_streams(sharers: object) -> AbstractContextManager[None]:
    """Let the requests made inside the ``with`` block share streams with all others made for the same ``sharers``."""
    return _Sharing(sharers)


class _Sharing(AbstractContextManager[None]):
    """See ``sharing_streams``; a class, because each request enters one and a generator costs several times as much."""

    __slots__ = ("_sharers", "_token")

    def __init__(self, sharers: object) -> None:
        self._sharers = sharers
        self._token: Token[object | None] | None = None

    def __enter__(self) -> None:
        self._token = _sharers.set(self._sharers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._token is not None
        _sharers.reset(self._token)


def current_sharers() -> object | None:
    """Return whose requests may share streams with those made here; ``None``: nobody's."""
    return _sharers.get()


class SharedStreams:
    """The shared streams of one connection.

    Args:
        open_stream: starts a ``ModelStreamInfer`` call.
        watch: notices when a model's process dies.
        target: the server's address, for errors.
    """

    def __init__(self, open_stream: OpenStream, watch: EngineWatch, target: str) -> None:
        self._open_stream = open_stream
        self._watch = watch
        self._target = target
        self._streams: dict[tuple[object, str], list[_Stream]] = {}
        self._expiries: Expiries[Answer] = Expiries(_give_up)

    def close(self) -> None:
        """Stop watching the time of requests; for when the connection is closed, which ends them."""
        self._expiries.close()

    async def ask(
        self, sharers: object, model: str, request: kserve.ModelInferRequest, *, timeout_seconds: float
    ) -> kserve.ModelInferResponse:
        """Return a request's only response.

        Args:
            sharers: with whom it may share a stream.
            model: name of the model.
            request: the request; it is given an id here.
            timeout_seconds: what is left of the caller's deadline.

        Raises:
            FleetError: as a request on a stream of its own.
        """
        answer: Answer = asyncio.get_running_loop().create_future()
        self._expiries.watch(answer, time.monotonic() + timeout_seconds)
        try:
            return await self._stream((sharers, model)).ask(request, answer)
        except TimeoutError:
            raise DeadlineExceededError(
                f"model {model!r} did not answer within the caller's deadline",
                reason="INFERENCE_DEADLINE_EXCEEDED",
                metadata={"model": model},
            ) from None
        finally:
            self._expiries.forget(answer)

    def _stream(self, key: tuple[object, str]) -> "_Stream":
        for stream in self._streams.get(key, ()):
            if len(stream) < _REQUESTS_A_STREAM and not stream.is_bereft():
                return stream
        stream = _Stream(key[1], self._open_stream, self._watch, self._target, lambda it: self._forget(key, it))
        self._streams.setdefault(key, []).append(stream)
        return stream

    def _forget(self, key: tuple[object, str], stream: "_Stream") -> None:
        streams = self._streams.get(key, [])
        if stream in streams:
            streams.remove(stream)
        if not streams:
            self._streams.pop(key, None)


class _Stream:
    """One stream and the requests that wait on it.

    Args:
        model: whom they ask.
        open_stream: starts it.
        watch: see ``SharedStreams``.
        target: likewise.
        on_end: told, perhaps more than once, that nothing may be put on it any more.
    """

    def __init__(
        self,
        model: str,
        open_stream: OpenStream,
        watch: EngineWatch,
        target: str,
        on_end: Callable[["_Stream"], None],
    ) -> None:
        self._model = model
        self._watch = watch
        self._target = target
        self._on_end = on_end
        self._waiting: dict[str, Answer] = {}
        self._unmarked: dict[str, kserve.ModelInferResponse] = {}
        self._has_abandoned = False
        self._outbox: asyncio.Queue[kserve.ModelInferRequest | None] = asyncio.Queue()
        self._asked = 0
        self._idle: asyncio.TimerHandle | None = None
        self._call = open_stream(self._requests())
        self._reader = asyncio.create_task(self._read(), name="shared inference stream")

    def __len__(self) -> int:
        """Return how many requests wait."""
        return len(self._waiting)

    def is_bereft(self) -> bool:
        """Return whether the process behind it is gone."""
        return self._watch.is_bereft(self._call)

    async def ask(self, request: kserve.ModelInferRequest, answer: Answer) -> kserve.ModelInferResponse:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._asked += 1
        request.id = request_id = str(self._asked)
        self._waiting[request_id] = answer
        self._outbox.put_nowait(request)
        try:
            return await answer
        finally:
            self._waiting.pop(request_id, None)
            self._unmarked.pop(request_id, None)
            if _is_given_up(answer):
                self._has_abandoned = True
                self._on_end(self)
            if not self._waiting:
                self._rest()

    def _rest(self) -> None:
        """Nobody waits: stop the server's work if there is any left, or close the stream if nobody comes soon."""
        if self._has_abandoned:
            self._call.cancel()
        elif self._idle is None:
            seconds = _IDLE_SECONDS if self._asked == 1 else _SHARED_IDLE_SECONDS
            self._idle = asyncio.get_running_loop().call_later(seconds, self._close)

    def _close(self) -> None:
        # Closed and read to its end: cancelling a stream that is just ending makes Triton keep its requests.
        self._on_end(self)
        self._outbox.put_nowait(None)

    async def _requests(self) -> AsyncGenerator[kserve.ModelInferRequest, None]:
        while (request := await self._outbox.get()) is not None:
            yield request

    async def _read(self) -> None:
        error: FleetError = UnavailableError(
            f"the inference server at {self._target} ended a stream early", reason="INFERENCE_UNAVAILABLE"
        )
        try:
            with self._watch.watching(self._model, self._call):
                try:
                    async for message in self._call:
                        self._deliver(message)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    if self._watch.was_ended(self._call):
                        error = UnavailableError(
                            f"the process of model {self._model!r} has died; load the model again",
                            reason=ENGINE_CRASHED,
                            metadata={"model": self._model},
                        )
        except grpc.aio.AioRpcError as broken:
            error = from_rpc_error(broken, model=self._model, target=self._target)
        finally:
            self._on_end(self)
            if self._idle is not None:
                self._idle.cancel()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)

    def _deliver(self, message: kserve.ModelStreamInferResponse) -> None:
        response = message.infer_response
        answer = self._waiting.get(response.id)
        if message.error_message:
            error = from_triton_text(message.error_message, model=self._model)
            if says_process_is_gone(message.error_message):
                self._watch.report_death(self._model, self._call)
            # Triton names the request; an error of nobody in particular is everybody's.
            for failed in [answer] if response.id else self._waiting.values():
                if failed is not None and not failed.done():
                    failed.set_exception(error)
            return
        if answer is None or answer.done():
            return
        if not response.parameters["triton_final_response"].bool_param:
            self._unmarked[response.id] = response
            return
        # The mark of the end may come behind the answer, in a response of its own.
        whole = response if response.outputs else self._unmarked.pop(response.id, None)
        if whole is None:
            answer.set_exception(
                InternalError(f"model {self._model!r} gave no answer", reason="INFERENCE_ANSWER_INCOMPLETE")
            )
        else:
            answer.set_result(whole)


def _give_up(answer: Answer) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _is_given_up(answer: Answer) -> bool:
    """Whether the answer is not waited for any more, although it may still come."""
    return answer.cancelled() or (answer.done() and isinstance(answer.exception(), TimeoutError))

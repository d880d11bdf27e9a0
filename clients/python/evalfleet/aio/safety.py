"""Verdicts of a fleet's guard models, on an event loop."""

from __future__ import annotations  # the asynchronous stubs are names of the type checker's alone

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Unpack

from evalfleet import decoding, policies
from evalfleet import verdict_messages as messages
from evalfleet.aio.bulk import AnyIterable, answered_batches, answered_items, each_of, item_streams
from evalfleet.aio.connections import AsyncConnection
from evalfleet.errors import EvalFleetError
from evalfleet.names import full_name
from evalfleet.results import Guard, Policy, RollingVerdict, Verdict
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from evalfleet.verdict_messages import (
    BATCH_TIMEOUT_SECONDS,
    LARGEST_BATCH,
    PATIENCE_SECONDS,
    SILENCE_SECONDS,
    ClassifyOptions,
    Conversation,
    GuardOptions,
)
from evalfleet.window import LONGEST_STREAM_SECONDS, WINDOW_ITEMS


class AsyncSafety:
    """The safety service's judgement of conversations: ``evalfleet.verdicts.Safety``, to be awaited.

    All ways to ask take the options ``guard``, ``threshold``, ``policy`` and ``aspect`` that are described there.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def _stub(self) -> safety_pb2_grpc.SafetyServiceAsyncStub:
        return self._connection.stub(safety_pb2_grpc.SafetyServiceStub)

    async def classify(self, conversation: Conversation, **options: Unpack[ClassifyOptions]) -> Verdict:
        """Judge the last turn of a conversation."""
        request = messages.classify_request(conversation, **options)
        answer = await self._connection.call(self._stub.Classify, request, may_be_hedged=True)
        return decoding.verdict(answer.verdict)

    async def classify_batch(
        self,
        conversations: Sequence[Conversation],
        *,
        timeout_seconds: float = BATCH_TIMEOUT_SECONDS,
        **options: Unpack[ClassifyOptions],
    ) -> list[Verdict | EvalFleetError]:
        """Judge the last turn of each conversation; one verdict or error each, in their order.

        Any number may be given; each call of the service carries up to 256 and takes up to ``timeout_seconds``.
        """
        requests = (messages.classify_request_or_error(each, **options) for each in conversations)

        async def ask(some: list[safety_pb2.ClassifyRequest]) -> Sequence[safety_pb2.ClassifyResult]:
            batch = safety_pb2.BatchClassifyRequest(requests=some)
            answer = await self._connection.call(
                self._stub.BatchClassify, batch, timeout_seconds=timeout_seconds, may_be_hedged=True
            )
            return answer.results

        return [messages.outcome(each) for each in await answered_batches(requests, ask, largest=LARGEST_BATCH)]

    async def classify_many(
        self,
        conversations: AnyIterable[Conversation | EvalFleetError],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        in_order: bool = False,
        window: int = WINDOW_ITEMS,
        **options: Unpack[ClassifyOptions],
    ) -> AsyncGenerator[tuple[int, Verdict | EvalFleetError], None]:
        """Yield (index of the conversation, its verdict or error), once each, in the order in which they are ready.

        There may be any number of conversations, in any iterable or asynchronous iterator: no more are held than
        ``window``. The other arguments are those of ``Safety.classify_many``. Use ``contextlib.aclosing`` where the
        loop may be left early: closing it stops the guards' work.
        """
        requests = (messages.classify_request_or_error(each, **options) async for each in each_of(conversations))
        outcomes = answered_items(
            requests,
            item_streams(self._connection, self._stub.StreamClassify, messages.stream_request),
            outcomes_in=messages.stream_outcomes,
            error_of=messages.error_in,
            patience_seconds=patience_seconds,
            silence_seconds=silence_seconds,
            in_order=in_order,
            window=window,
        )
        async with aclosing(outcomes):
            async for index, outcome in outcomes:
                yield index, messages.outcome(outcome)

    async def classify_growing(
        self,
        conversation: Conversation,
        pieces: AnyIterable[str],
        *,
        every_characters: int | None = None,
        **options: Unpack[GuardOptions],
    ) -> AsyncGenerator[RollingVerdict, None]:
        """Judge a response while it is being generated; yield a verdict now and then, and at last the final one.

        What holds for ``Safety.classify_growing`` holds here; ``pieces`` may be an asynchronous iterator.
        """
        opening = messages.opening(conversation, every_characters, **options)
        failures: list[Exception] = []

        async def requests() -> AsyncGenerator[safety_pb2.StreamClassifyRequest, None]:
            yield opening
            try:
                async for text in each_of(pieces):
                    yield messages.piece(text)
            except Exception as error:  # noqa: BLE001 - gRPC would swallow it in its own task: kept for the caller's
                failures.append(error)
                return
            yield messages.last_piece()

        try:
            async with aclosing(
                self._connection.exchange(self._stub.StreamClassify, requests(), timeout_seconds=LONGEST_STREAM_SECONDS)
            ) as verdicts:
                async for each in verdicts:
                    if failures:
                        break
                    yield messages.rolling_verdict(each)
                    if each.final:
                        break
        except asyncio.CancelledError:
            raise
        finally:
            if failures:
                raise failures[0]

    async def guards(self) -> tuple[Guard, ...]:
        """Return the guards of the service, ordered by name."""
        pages = self._connection.pages(self._stub.ListGuards, messages.guards_request)
        return tuple([decoding.guard(each) async for page in pages for each in page.guards])

    async def guard(self, name: str) -> Guard:
        """Return one guard; its name may be shortened to the part behind ``guards/``."""
        request = safety_pb2.GetGuardRequest(name=full_name("guards", name))
        return decoding.guard((await self._connection.call(self._stub.GetGuard, request, may_be_hedged=True)).guard)

    async def policies(self) -> tuple[Policy, ...]:
        """Return the policies of the service, ordered by name."""
        pages = self._connection.pages(self._stub.ListPolicies, messages.policies_request)
        return tuple([policies.from_message(each) async for page in pages for each in page.policies])

    async def policy(self, name: str) -> Policy:
        """Return one policy; its name may be shortened to the part behind ``policies/``."""
        request = safety_pb2.GetPolicyRequest(name=full_name("policies", name))
        answer = await self._connection.call(self._stub.GetPolicy, request, may_be_hedged=True)
        return policies.from_message(answer.policy)

"""Items over streams to a real server on a loopback port; its generation service is a fake that answers by prompt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc

from services.evaluation.runs import item_streams
from services.evaluation.runs.item_streams import ItemStreams
from services.evaluation.runs.remote import generate_items
from services.runtime.calls import bind_ids
from services.runtime.errors import (
    DeadlineExceededError,
    FleetError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.runtime.server import HostedService
from services.runtime.settings import ServiceSettings
from services.runtime.status import to_status
from services.runtime.testing import serve_in_process
from tests.patience import LONGEST_WAIT_SECONDS, until

SERVICE = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
Streams = ItemStreams[generation_pb2.GenerateRequest, generation_pb2.GenerateResponse]


class FakeGeneration:
    """Answers an item with its prompt; some prompts mean something else."""

    def __init__(self, *, reads_groups: bool = False) -> None:
        self.reads_groups = reads_groups
        self.messages = 0
        self.items = 0
        self.streams = 0
        self.calls = 0
        self.peers: set[str] = set()
        self.hanging = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left = asyncio.Event()

    def add_to_server(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "StreamGenerate": grpc.stream_stream_rpc_method_handler(
                self._stream_generate,
                generation_pb2.StreamGenerateRequest.FromString,
                generation_pb2.StreamGenerateResponse.SerializeToString,
            ),
            "Generate": grpc.unary_unary_rpc_method_handler(
                self._generate,
                generation_pb2.GenerateRequest.FromString,
                generation_pb2.GenerateResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def _stream_generate(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        self.streams += 1
        self.peers.add(context.peer())
        held: list[Any] = []
        if self.reads_groups:
            await context.send_initial_metadata((("evalfleet-item-groups", "1"),))
        try:
            async for item in self._items(request_iterator):
                answer = generation_pb2.StreamGenerateResponse(item_id=item.item_id)
                prompt = item.request.prompt
                if prompt == "bad":
                    answer.status.CopyFrom(to_status(InvalidArgumentError("bad prompt", reason="PROMPT_BAD")))
                elif prompt == "break":
                    raise ResourceExhaustedError("come back", reason="QUEUE_FULL")
                elif prompt == "cancel":
                    await context.abort(grpc.StatusCode.CANCELLED, "max_age")
                elif prompt == "slow":
                    await self.go_on.wait()
                    answer.response.completions.add(text=prompt)
                elif prompt == "hang":
                    self.hanging.set()
                    continue
                else:
                    answer.response.completions.add(text=prompt)
                held.append(answer)
                if prompt.startswith("later"):
                    continue
                while held:
                    yield held.pop()
        finally:
            # Whoever leaves ends the iteration above before the handler is cancelled.
            self.left.set()

    async def _items(self, messages: Any) -> AsyncIterator[Any]:
        async for message in messages:
            self.messages += 1
            self.items += 1 + len(message.more)
            yield message
            if self.reads_groups:
                for item in message.more:
                    yield item

    async def _generate(self, request: Any, context: Any) -> Any:
        self.calls += 1
        return generation_pb2.GenerateResponse(completions=[generation_pb2.Completion(text="alone")])


@asynccontextmanager
async def asking(
    fake: FakeGeneration, *, timeout_seconds: float = LONGEST_WAIT_SECONDS, settings: ServiceSettings | None = None
) -> AsyncIterator[Streams]:
    hosted = HostedService(SERVICE, fake.add_to_server)
    async with serve_in_process(hosted, settings=settings) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)

        async def alone(request: generation_pb2.GenerateRequest) -> generation_pb2.GenerateResponse:
            response: generation_pb2.GenerateResponse = await stub.Generate(request)
            return response

        yield ItemStreams(
            stub.StreamGenerate,
            generate_items,
            alone,
            timeout_seconds=timeout_seconds,
        )


async def ask(streams: Streams, prompt: str) -> str:
    response = await streams.ask(generation_pb2.GenerateRequest(prompt=prompt))
    return response.completions[0].text


async def test_answers_find_their_items_in_whatever_order_they_come() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        prompts = ["later 1", "later 2", "now", "later 3", "later 4", "end"]
        assert await asyncio.gather(*(ask(streams, prompt) for prompt in prompts)) == prompts
        assert fake.streams == 1


async def test_an_item_that_fails_leaves_its_neighbours_alone() -> None:
    async with asking(FakeGeneration()) as streams:
        results = await asyncio.gather(*(ask(streams, each) for each in ("a", "bad", "b")), return_exceptions=True)
    assert [results[0], results[2]] == ["a", "b"]
    assert isinstance(results[1], InvalidArgumentError)
    assert results[1].reason == "PROMPT_BAD"


async def test_a_stream_that_breaks_gives_its_error_to_all_items_and_the_next_item_a_new_stream() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        results = await asyncio.gather(
            *(ask(streams, each) for each in ("hang", "hang", "break")), return_exceptions=True
        )
        assert [isinstance(each, FleetError) and each.reason for each in results] == ["QUEUE_FULL"] * 3
        assert await ask(streams, "again") == "again"
        assert fake.streams == 2


async def test_a_stream_that_the_peer_cancels_is_one_that_broke() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        results = await asyncio.gather(*(ask(streams, each) for each in ("hang", "cancel")), return_exceptions=True)
        assert [isinstance(each, UnavailableError) and each.reason for each in results] == ["ITEM_STREAM_ENDED"] * 2
        assert await ask(streams, "again") == "again"


async def test_many_items_spread_over_streams_and_each_run_has_its_own() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        asked = [asyncio.create_task(ask(streams, f"later {number}")) for number in range(40)]
        with bind_ids(run_id="other"):
            asked += [asyncio.create_task(ask(streams, "now"))]
        await asked[-1]
        await until(lambda: fake.streams == 4)
        assert sum(map(len, next(iter(streams._streams.values())))) == 40
        assert [len(each) for each in streams._streams[None]] == [16, 16, 8]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_the_work_ends_when_the_last_item_is_cancelled() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        one, other = (asyncio.create_task(ask(streams, "hang")) for _ in range(2))
        await fake.hanging.wait()
        one.cancel()
        await asyncio.wait([one])
        assert await ask(streams, "still there") == "still there"
        other.cancel()
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await fake.left.wait()


@pytest.mark.parametrize("abandoned", ["hang", "later too"])
async def test_what_was_left_while_others_waited_ends_with_them(
    abandoned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_streams, "_IDLE_SECONDS", 60.0)
    fake = FakeGeneration()
    async with asking(fake) as streams:
        waiting = asyncio.create_task(ask(streams, "later"))  # the fake answers it last
        left = asyncio.create_task(ask(streams, abandoned))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        assert tuple(await asyncio.gather(ask(streams, "now"), waiting)) == ("now", "later")
        if abandoned == "hang":
            async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                await fake.left.wait()
        else:
            # What was left has had its outcome: there is nothing to stop, and the stream is of use to others.
            assert await ask(streams, "again") == "again"
            assert fake.streams == 1


async def test_an_item_that_takes_too_long_has_a_typed_end() -> None:
    async with asking(FakeGeneration(), timeout_seconds=0.05) as streams:
        with pytest.raises(DeadlineExceededError) as caught:
            await ask(streams, "hang")
    assert caught.value.reason == "PEER_DEADLINE_EXCEEDED"


async def test_an_item_too_large_for_company_goes_alone() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        assert await ask(streams, "x" * 300_000) == "alone"
    assert (fake.streams, fake.calls) == (0, 1)


async def test_a_server_that_stops_is_unavailable() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        waiting = asyncio.create_task(ask(streams, "hang"))
        await fake.hanging.wait()
    with pytest.raises(UnavailableError):
        await waiting


async def test_a_peer_that_reads_groups_gets_many_items_a_message() -> None:
    fake = FakeGeneration(reads_groups=True)
    async with asking(fake) as streams:
        assert await ask(streams, "first") == "first"
        prompts = [f"now {number}" for number in range(15)]
        assert await asyncio.gather(*(ask(streams, prompt) for prompt in prompts)) == prompts
    assert fake.streams == 1
    assert fake.messages < 10


async def test_a_peer_that_does_not_say_so_gets_one_item_a_message() -> None:
    fake = FakeGeneration()
    async with asking(fake) as streams:
        prompts = [f"now {number}" for number in range(15)]
        assert await asyncio.gather(*(ask(streams, prompt) for prompt in prompts)) == prompts
    assert fake.messages == 15


async def test_what_is_asked_together_goes_together_and_the_next_moment_elsewhere() -> None:
    fake = FakeGeneration(reads_groups=True)
    async with asking(fake) as streams:
        held = [asyncio.create_task(ask(streams, f"later {number}")) for number in range(128)]
        await until(lambda: fake.items == 128 and all(each._is_gathering for each in streams._streams[None]))
        await until(lambda: all(each._takes_groups for each in streams._streams[None]))
        opened, before = streams._streams[None], fake.messages
        together = [asyncio.create_task(ask(streams, f"later {number}")) for number in range(12)]
        await until(lambda: fake.items == 140)
        assert fake.messages == before + 1
        assert sorted(map(len, opened)) == [*[16] * 7, 28]
        [fullest] = [each for each in opened if len(each) == 28]
        alone = asyncio.create_task(ask(streams, "later"))
        await until(lambda: fake.items == 141)
        assert len(fullest) == 28
        for task in (*held, *together, alone):
            task.cancel()
        await asyncio.gather(*held, *together, alone, return_exceptions=True)


async def test_a_stream_takes_so_many_items_only_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_streams, "_MOST_ITEMS", 5)
    monkeypatch.setattr(item_streams, "_IDLE_SECONDS", 0.01)
    fake = FakeGeneration()
    async with asking(fake) as streams:
        for number in range(12):
            assert await ask(streams, f"now {number}") == f"now {number}"
        assert fake.streams == 3
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await fake.left.wait()
        await until(lambda: not streams._streams)


async def test_streams_are_renewed_with_their_connections_and_no_item_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_streams, "_LONGEST_SECONDS", 0.5)
    monkeypatch.setattr(item_streams, "_IDLE_SECONDS", LONGEST_WAIT_SECONDS)
    fake = FakeGeneration()
    settings = ServiceSettings(port=0, metrics_port=0, max_connection_age_seconds=1.0, drain_grace_seconds=0.1)
    async with asking(fake, settings=settings) as streams, asyncio.timeout(LONGEST_WAIT_SECONDS):
        slow = asyncio.create_task(ask(streams, "slow"))
        await until(lambda: fake.items == 1)
        with bind_ids(run_id="other"):
            while len(fake.peers) < 3:
                assert await ask(streams, "now") == "now"
        fake.go_on.set()
        assert await slow == "slow"
        assert "other" in streams._streams
        assert None not in streams._streams

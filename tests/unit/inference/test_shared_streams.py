"""Requests of one call on shared streams, against a fake inference server on a loopback port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from services.inference import engine_watch, model_calls, shared_streams
from services.inference.client import InferenceClient
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.sampling import SamplingParameters
from services.inference.shared_streams import sharing_streams
from services.inference.tensors import read_request, text_array, write_response
from services.runtime.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from tests.patience import LONGEST_WAIT_SECONDS, until


class FakeInference(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient has no types
    """Answers a prompt with itself, in any order; some prompts mean something else."""

    def __init__(self) -> None:
        self.streams = 0
        self.ended = 0
        self.cancelled = 0
        self.prompts: list[str] = []
        self.gate = asyncio.Event()
        self.marks_apart = False

    async def ModelStreamInfer(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        self.streams += 1
        ready: asyncio.Queue[Any] = asyncio.Queue()

        async def answer(request: kserve.ModelInferRequest) -> None:
            prompt = read_request(request)["text_input"][0].decode()
            self.prompts.append(prompt)
            if prompt.startswith("wait"):
                await self.gate.wait()
            if prompt.startswith("hang"):
                await asyncio.Event().wait()
            if prompt.startswith("dead"):
                text = "Stub process 'm_0_0' is not healthy."
                failed = kserve.ModelInferResponse(id=request.id)
                ready.put_nowait(kserve.ModelStreamInferResponse(error_message=text, infer_response=failed))
                return
            if prompt.startswith("bad"):
                failure = InferenceFailure("too long", reason="PROMPT_TOO_LONG")
                failed = kserve.ModelInferResponse(id=request.id)
                ready.put_nowait(
                    kserve.ModelStreamInferResponse(error_message=encode_failure(failure), infer_response=failed)
                )
                return
            outputs = {"text_output": text_array(prompt), "finish_reason": text_array("stop")}
            response = write_response("m", request.id, {} if prompt.startswith("empty") else outputs)
            if self.marks_apart:
                ready.put_nowait(kserve.ModelStreamInferResponse(infer_response=response))
                response = kserve.ModelInferResponse(id=request.id)
            response.parameters["triton_final_response"].bool_param = True
            ready.put_nowait(kserve.ModelStreamInferResponse(infer_response=response))

        async def read() -> None:
            async with asyncio.TaskGroup() as group:
                async for request in request_iterator:
                    group.create_task(answer(request))
            ready.put_nowait(None)

        reading = asyncio.create_task(read())
        try:
            while (message := await ready.get()) is not None:
                yield message
            self.ended += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            reading.cancel()


@asynccontextmanager
async def asking(fake: FakeInference) -> AsyncIterator[InferenceClient]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with InferenceClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        await server.stop(None)


async def ask(
    client: InferenceClient, prompt: str, sharers: object | None, timeout_seconds: float = LONGEST_WAIT_SECONDS
) -> str:
    with sharing_streams(sharers):
        answer = await client.generate("m", prompt, SamplingParameters(), timeout_seconds=timeout_seconds)
    return answer.text


@pytest.mark.parametrize("marks_apart", [False, True])
async def test_the_requests_of_a_call_share_streams_and_find_their_answers(marks_apart: bool) -> None:
    fake = FakeInference()
    fake.marks_apart = marks_apart
    async with asking(fake) as client:
        prompts = [*(f"wait {number}" for number in range(8)), *(f"now {number}" for number in range(8))]
        asked = [asyncio.create_task(ask(client, prompt, "call")) for prompt in prompts]
        await asyncio.wait(asked[8:])
        fake.gate.set()
        assert await asyncio.gather(*asked) == prompts
        assert fake.streams == 1


async def test_calls_share_nothing_and_a_stream_takes_so_many_only() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        asked = [asyncio.create_task(ask(client, f"wait {number}", "one")) for number in range(17)]
        asked += [asyncio.create_task(ask(client, "wait", "other"))]
        asked += [asyncio.create_task(ask(client, "wait", None))]
        await until(lambda: len(fake.prompts) == 19)
        assert fake.streams == 4
        fake.gate.set()
        await asyncio.gather(*asked)


async def test_a_request_that_fails_leaves_its_neighbours_alone() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        results = await asyncio.gather(
            *(ask(client, prompt, "call") for prompt in ("a", "bad", "b", "empty")), return_exceptions=True
        )
        assert [results[0], results[2]] == ["a", "b"]
        assert isinstance(results[1], InvalidArgumentError)
        assert results[1].reason == "PROMPT_TOO_LONG"
        assert getattr(results[3], "reason", None) == "INFERENCE_ANSWER_INCOMPLETE"
        assert fake.streams == 1


async def test_the_work_ends_when_the_last_request_is_given_up() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        asked = [asyncio.create_task(ask(client, f"hang {number}", "call")) for number in range(3)]
        await until(lambda: len(fake.prompts) == 3)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await until(lambda: fake.cancelled == 1)


async def test_what_was_given_up_goes_on_only_as_long_as_others_wait_and_gets_no_company() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        left = asyncio.create_task(ask(client, "hang", "call"))
        waiting = asyncio.create_task(ask(client, "wait", "call"))
        await until(lambda: len(fake.prompts) == 2)
        left.cancel()
        await asyncio.wait([left])
        assert await ask(client, "later", "call") == "later"
        assert (fake.streams, fake.cancelled) == (2, 0)
        fake.gate.set()
        assert await waiting == "wait"
        await until(lambda: fake.cancelled == 1)


async def test_a_request_that_takes_too_long_has_a_typed_end() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        with pytest.raises(DeadlineExceededError) as caught:
            await ask(client, "hang", "call", timeout_seconds=0.05)
        assert caught.value.reason == "INFERENCE_DEADLINE_EXCEEDED"
        await until(lambda: fake.cancelled == 1)


async def test_a_stream_that_nobody_needs_is_closed_and_not_cancelled() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        assert await ask(client, "now", "call") == "now"
        await until(lambda: fake.ended == 1)
        assert fake.cancelled == 0
        assert await ask(client, "again", "call") == "again"
        assert fake.streams == 2


async def test_a_stream_of_several_requests_is_kept_for_the_next_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_streams, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(shared_streams, "_SHARED_IDLE_SECONDS", LONGEST_WAIT_SECONDS)
    fake = FakeInference()
    async with asking(fake) as client:
        for burst in range(3):
            texts = [f"text {burst}.{number}" for number in range(2)]
            assert await asyncio.gather(*(ask(client, text, "call") for text in texts)) == texts
        assert fake.streams == 1


async def test_a_stream_of_several_requests_is_closed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_streams, "_SHARED_IDLE_SECONDS", 0.01)
    fake = FakeInference()
    async with asking(fake) as client:
        await asyncio.gather(ask(client, "one", "call"), ask(client, "two", "call"))
        await until(lambda: fake.ended == 1)
        assert fake.cancelled == 0


async def test_a_server_that_goes_away_is_unavailable_to_all() -> None:
    fake = FakeInference()
    async with asking(fake) as client:
        asked = [asyncio.create_task(ask(client, f"hang {number}", "call")) for number in range(3)]
        await until(lambda: len(fake.prompts) == 3)
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(each, UnavailableError) for each in results), results


async def test_the_death_of_the_models_process_ends_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_calls, "ENGINE_WATCH_SECONDS", 0.01)
    fake = FakeInference()
    async with asking(fake) as client:
        monkeypatch.setattr(client._calls._watch, "_is_alive", lambda model: asyncio.sleep(0, result=False))
        asked = [asyncio.create_task(ask(client, f"hang {number}", "call")) for number in range(3)]
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert [getattr(each, "reason", each) for each in results] == ["ENGINE_CRASHED"] * 3


@pytest.mark.parametrize("shared", [True, False])
async def test_what_the_server_forgets_when_a_process_dies_ends_although_the_model_is_soon_there_again(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_watch, "DEATH_SECONDS", 0.05)
    fake = FakeInference()
    async with asking(fake) as client:
        forgotten = asyncio.create_task(ask(client, "hang", "call" if shared else None))
        await until(lambda: len(fake.prompts) == 1)
        with pytest.raises(UnavailableError) as told:
            await ask(client, "dead", "call" if shared else None)
        # Behind the death: this one waits for the process that comes next, on a stream of its own.
        after = asyncio.create_task(ask(client, "wait", "call" if shared else None))
        with pytest.raises(UnavailableError) as ended:
            await forgotten
        assert told.value.reason == ended.value.reason == "ENGINE_CRASHED"
        fake.gate.set()
        assert await after == "wait"

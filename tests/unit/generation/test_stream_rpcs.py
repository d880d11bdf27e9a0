"""The streaming methods over real gRPC, on a fake inference server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire_backend
from services.runtime.callers import CALLER_KEY
from services.runtime.errors import FailedPreconditionError, from_rpc_error, from_status
from services.runtime.testing import as_bytes, serve_in_process
from tests.fakes.inference_backend import FakeInferenceBackend
from tests.patience import LONGEST_WAIT_SECONDS, until

STREAM_GENERATE = "/evalfleet.generation.v1.GenerationService/StreamGenerate"


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def channel(
    tmp_path: Path, backend: FakeInferenceBackend, checkpoint: Path, metrics: CollectorRegistry
) -> AsyncIterator[grpc.aio.Channel]:
    settings = GenerationSettings(
        port=0,
        state_dir=tmp_path / "state",
        checkpoint_roots=str(tmp_path / "checkpoints"),
        max_stream_items=4,
        max_engine_requests=3,
        max_engine_requests_per_call=2,
        max_queued_requests=3,
    )
    async with (
        wire_backend(settings, metrics, backend) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        models = model_pb2_grpc.ModelServiceStub(channel)
        await models.CreateModel(model_pb2.CreateModelRequest(model_id="m", checkpoint_path=str(checkpoint)))
        yield channel


@pytest.fixture
def generation(channel: grpc.aio.Channel) -> Any:
    return generation_pb2_grpc.GenerationServiceStub(channel)


def item(item_id: str, prompt: str = "hi", model: str = "models/m") -> generation_pb2.StreamGenerateRequest:
    request = generation_pb2.GenerateRequest(model=model, prompt=prompt)
    return generation_pb2.StreamGenerateRequest(item_id=item_id, request=request)


async def test_all_items_come_back_and_bad_ones_keep_to_themselves(
    generation: Any, backend: FakeInferenceBackend
) -> None:
    backend.failures["long"] = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")
    items = [item(str(number), f"p{number}") for number in range(50)]
    items += [item("bad", ""), item("", "no id"), item("0", "again"), item("long", "long"), item("n", "x", "models/n")]
    outcomes = [each async for each in generation.StreamGenerate(iter(items))]
    good = {each.item_id: each.response.completions[0].text for each in outcomes if each.HasField("response")}
    assert {key: text.split("|")[1] for key, text in good.items()} == {str(n): f"p{n}" for n in range(50)}
    reasons = {each.item_id: from_status(each.status).reason for each in outcomes if each.HasField("status")}
    assert reasons == {
        "bad": "INVALID_REQUEST",
        "": "ITEM_ID_INVALID",
        "0": "ITEM_ID_REUSED",
        "long": "PROMPT_TOO_LONG",
        "n": "MODEL_NOT_FOUND",
    }


async def test_a_stream_has_the_places_of_one_call(generation: Any, backend: FakeInferenceBackend) -> None:
    backend.gate = asyncio.Event()
    items = [item(str(number), str(number)) for number in range(4)]
    outcomes = asyncio.create_task(_all(generation.StreamGenerate(iter(items))))
    await backend.until(lambda: backend.in_flight == 2)
    await asyncio.sleep(0.05)
    backend.gate.set()
    assert len(await outcomes) == 4
    assert backend.most_in_flight == 2


async def _all(stream: Any) -> list[Any]:
    return [each async for each in stream]


async def test_scores_stream_too(generation: Any) -> None:
    def request(number: int) -> generation_pb2.StreamScoreContinuationsRequest:
        texts = ["a", "b" * number]
        scored = generation_pb2.ScoreContinuationsRequest(model="models/m", prompt="", continuations=texts)
        return generation_pb2.StreamScoreContinuationsRequest(item_id=str(number), request=scored)

    answers = {}
    async for each in generation.StreamScoreContinuations(request(number) for number in range(6)):
        answers[each.item_id] = each
    assert from_status(answers.pop("0").status).field_violations[0].field == "continuations[1]"
    assert {key: each.response.scores[1].log_likelihood for key, each in answers.items()} == {
        str(number): -float(number) for number in range(1, 6)
    }


async def test_a_message_that_is_no_message_is_that_items_error(channel: grpc.aio.Channel) -> None:
    good = item("good").SerializeToString()
    not_text = item("not text", "##").SerializeToString().replace(b"##", b"\xff\xfe")
    stream = channel.stream_stream(STREAM_GENERATE, as_bytes, generation_pb2.StreamGenerateResponse.FromString)
    outcomes = {each.item_id: each async for each in stream(iter([not_text, b"\xff\xff\xff", good]))}
    assert from_status(outcomes["not text"].status).reason == "MALFORMED_REQUEST"
    assert outcomes[""].HasField("status")
    assert outcomes["good"].HasField("response")


async def test_the_service_reads_no_more_than_it_has_room_for(generation: Any, backend: FakeInferenceBackend) -> None:
    backend.gate = asyncio.Event()
    sent = 0

    async def items() -> AsyncIterator[generation_pb2.StreamGenerateRequest]:
        nonlocal sent
        for number in range(64):
            yield item(str(number), str(number) + "x" * 1_000_000)
            sent += 1

    stream = generation.StreamGenerate(items())
    await backend.until(lambda: backend.in_flight == 2)
    before = -1
    await until(lambda: sent >= 4)
    while sent > before:
        before = sent
        await asyncio.sleep(0.2)
    # Four items, and what the transport holds.
    assert sent < 32
    backend.gate.set()
    assert len([each async for each in stream]) == 64


async def test_cancelling_a_stream_cancels_the_engines_work(generation: Any, backend: FakeInferenceBackend) -> None:
    backend.gate = asyncio.Event()
    stream = generation.StreamGenerate(item(str(number), str(number)) for number in range(20))
    await backend.until(lambda: backend.in_flight == 2)
    stream.cancel()
    await backend.until(lambda: backend.cancelled == 2 and backend.in_flight == 0)


async def test_an_answer_grows_piece_by_piece(generation: Any) -> None:
    request = generation_pb2.GenerateTokensRequest(
        request=generation_pb2.GenerateRequest(model="models/m", prompt="hello")
    )
    *pieces, last = [each async for each in generation.GenerateTokens(request)]
    assert all(each.HasField("piece") for each in pieces)
    [completion] = last.response.completions
    assert "".join(each.piece.text for each in pieces) == completion.text
    assert sum(each.piece.token_count for each in pieces) == completion.token_count
    assert completion.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert last.response.usage.prompt_tokens == 5
    assert last.response.model_digest


async def test_an_answer_survives_the_loss_of_its_model_until_it_has_begun(
    generation: Any, backend: FakeInferenceBackend
) -> None:
    request = generation_pb2.GenerateTokensRequest(
        request=generation_pb2.GenerateRequest(model="models/m", prompt="hello")
    )
    backend.loaded.clear()
    assert len([each async for each in generation.GenerateTokens(request)]) > 1
    request.request.cache_mode = generation_pb2.CACHE_MODE_BYPASS  # the answer is known by now
    backend.lose_after = 3
    call = aiter(generation.GenerateTokens(request))
    assert [(await anext(call)).HasField("piece") for _ in range(3)] == [True] * 3
    with pytest.raises(grpc.RpcError) as caught:
        await anext(call)
    error = from_rpc_error(caught.value)
    assert error.reason == "INFERENCE_UNAVAILABLE"


async def test_leaving_an_answer_stops_the_engine(generation: Any, backend: FakeInferenceBackend) -> None:
    backend.piece_gate = asyncio.Event()
    request = generation_pb2.GenerateTokensRequest(
        request=generation_pb2.GenerateRequest(model="models/m", prompt="hello")
    )
    call = generation.GenerateTokens(request)
    await anext(aiter(call))
    call.cancel()
    await backend.until(lambda: backend.cancelled == 1)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"sample_count": 2, "sampling": {"temperature": 1.0}}, "sample_count"),
        ({"prompt": ""}, "prompt"),
        ({"priority": 9}, "priority"),
    ],
)
async def test_an_answer_that_cannot_be_watched_is_refused(generation: Any, wanted: Any, field: str) -> None:
    request = generation_pb2.GenerateRequest(**({"model": "models/m", "prompt": "x"} | wanted))
    with pytest.raises(grpc.RpcError) as caught:
        async for _ in generation.GenerateTokens(generation_pb2.GenerateTokensRequest(request=request)):
            pass
    assert [each.field for each in from_rpc_error(caught.value).field_violations] == [field]


async def test_priorities_reach_the_queue_and_a_full_one_pushes_back(
    generation: Any, backend: FakeInferenceBackend, metrics: CollectorRegistry
) -> None:
    backend.gate = asyncio.Event()
    sent = [(generation_pb2.PRIORITY_EVALUATION, 3), (generation_pb2.PRIORITY_BACKGROUND, 2)]
    sent.append((generation_pb2.PRIORITY_INTERACTIVE, 1))
    calls = []
    for priority, count in sent:
        for number in range(count):
            prompt = f"{priority}/{number}"
            request = generation_pb2.GenerateRequest(model="models/m", prompt=prompt, priority=priority)
            calls.append(generation.Generate(request, metadata=((CALLER_KEY, "me"),)))
        # The first ones hold all places before the others come.
        await backend.until(lambda: backend.in_flight == 3)

    def queued(priority: str) -> float | None:
        return metrics.get_sample_value("evalfleet_generation_queued_requests", {"priority": priority})

    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while (queued("background"), queued("interactive")) != (2, 1):  # noqa: ASYNC110 - a gauge sends no events
            await asyncio.sleep(0)
    with pytest.raises(grpc.RpcError) as caught:
        await generation.Generate(generation_pb2.GenerateRequest(model="models/m", prompt="x"))
    error = from_rpc_error(caught.value)
    assert (error.reason, caught.value.code()) == ("QUEUE_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert error.retry_after_seconds
    trailers: Any = caught.value.trailing_metadata()
    assert int(dict(trailers)["grpc-retry-pushback-ms"]) > 0
    backend.gate.set()
    await asyncio.gather(*calls)


async def test_items_and_outcomes_come_many_a_message_to_whoever_sends_them_so(
    generation: Any, backend: FakeInferenceBackend
) -> None:
    backend.failures["long"] = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")

    def group(first: int) -> generation_pb2.StreamGenerateRequest:
        message = item(str(first), f"p{first}")
        for number in range(first + 1, first + 10):
            message.more.add(item_id=str(number), request=item("", f"p{number}").request)
        return message

    last = item("bad", "long")
    last.more.add(item_id="0", request=item("", "again").request)
    call = generation.StreamGenerate(iter([*(group(first) for first in range(0, 100, 10)), last]))
    assert ("evalfleet-item-groups", "1") in tuple(await call.initial_metadata())
    messages = [each async for each in call]
    outcomes = [each for message in messages for each in (message, *message.more)]
    good = {each.item_id: each.response.completions[0].text for each in outcomes if each.HasField("response")}
    assert {key: text.split("|")[1] for key, text in good.items()} == {str(n): f"p{n}" for n in range(100)}
    reasons = {each.item_id: from_status(each.status).reason for each in outcomes if each.HasField("status")}
    assert reasons == {"bad": "PROMPT_TOO_LONG", "0": "ITEM_ID_REUSED"}
    assert len(outcomes) == 102


async def test_a_damaged_item_of_a_message_is_its_own_error(channel: grpc.aio.Channel) -> None:
    message = item("first", "one")
    message.more.add(item_id="broken", request=item("", "##").request)
    message.more.add(item_id="last", request=item("", "two").request)
    call: Any = channel.stream_stream(STREAM_GENERATE, as_bytes, generation_pb2.StreamGenerateResponse.FromString)
    received = [each async for each in call(iter([message.SerializeToString().replace(b"##", b"\xff\xfe")]))]
    outcomes = {each.item_id: each for some in received for each in (some, *some.more)}
    assert set(outcomes) == {"first", "broken", "last"}
    assert from_status(outcomes["broken"].status).reason == "MALFORMED_REQUEST"
    assert outcomes["first"].HasField("response")
    assert outcomes["last"].HasField("response")

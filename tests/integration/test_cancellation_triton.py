"""Callers that leave stop the engine in a real Triton and do it no harm; what only the engine sees is a typed error."""

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from benchmarks.cancellation import CANCELLED, GENERATED, RUNNING, WAVE, Callers, Engine
from benchmarks.endless_model import write_endless_model
from services.generation.settings import GenerationSettings
from services.generation.wiring import wire
from services.runtime.errors import from_rpc_error, from_status
from services.runtime.testing import as_bytes, serve_in_process
from tests.conftest import InferenceHost
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MODEL = "models/m"
STREAMS = 400
AT_ONCE = 40
# As some real models' templates do.
NO_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{{ message['content'] }}{% endfor %}"
)


@pytest.fixture
async def channel(triton: InferenceHost, tmp_path: Path, tiny_checkpoint: Path) -> AsyncIterator[grpc.aio.Channel]:
    endless = write_endless_model(tmp_path / "endless")
    picky = shutil.copytree(tiny_checkpoint, tmp_path / "picky")
    (picky / "chat_template.jinja").write_text(NO_SYSTEM_TURN)
    settings = GenerationSettings(
        port=0,
        triton_target=triton.target,
        triton_key_file=triton.key_file,
        state_dir=tmp_path / "state",
        checkpoint_roots=str(tmp_path),
    )
    async with (
        wire(settings, CollectorRegistry()) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        models: Any = model_pb2_grpc.ModelServiceStub(channel)
        for name, folder in {"endless": endless, "m": picky}.items():
            request = model_pb2.CreateModelRequest(model_id=name, checkpoint_path=str(folder))
            await models.CreateModel(request, timeout=120)
        yield channel
        for name in ("endless", "m"):
            await models.DeleteModel(model_pb2.DeleteModelRequest(name=f"models/{name}"))


@pytest.mark.parametrize("kind", ["unary", "tokens", "bulk"])
async def test_the_engine_does_nothing_more_for_callers_that_left(
    channel: grpc.aio.Channel, triton: InferenceHost, kind: str
) -> None:
    engine, callers = Engine(triton.metrics_target), Callers(channel, "models/endless")
    before = await engine.read(GENERATED)
    calls = [getattr(callers, kind)() for _ in range(WAVE)]
    await engine.until(RUNNING, lambda running: running >= WAVE, timeout_seconds=LONGEST_WAIT_SECONDS)
    for call in calls:
        call.cancel()
    await engine.until(RUNNING, lambda running: running == 0, timeout_seconds=LONGEST_WAIT_SECONDS)
    # The gauge may be read while no one computes, the counter cannot: complete answers have 4000 tokens each.
    generated = await engine.read(GENERATED)
    assert generated - before < WAVE * 4000 / 2


async def test_triton_outlives_hundreds_of_callers_that_leave_at_any_time(
    channel: grpc.aio.Channel, triton: InferenceHost
) -> None:
    engine, chance = Engine(triton.metrics_target), random.Random(1)
    # Answers that end by themselves about when their callers leave, and such that go on.
    callers = [Callers(channel, "models/endless", max_tokens=tokens) for tokens in (1, 3, 10, 4000)]
    before, stub = await engine.read(CANCELLED), generation_pb2_grpc.GenerationServiceStub(channel)
    question = generation_pb2.GenerateRequest(model=MODEL, prompt="hello", cache_mode=generation_pb2.CACHE_MODE_BYPASS)
    answer = (await stub.Generate(question, timeout=120)).completions

    async def come_and_go() -> None:
        call = getattr(chance.choice(callers), chance.choice(["unary", "tokens", "bulk"]))()
        await asyncio.sleep(chance.choice([0.0, 0.002, 0.01, 0.03, 0.1 * chance.random()]))
        call.cancel()

    for _ in range(STREAMS // AT_ONCE):
        await asyncio.gather(*(come_and_go() for _ in range(AT_ONCE)))
    await engine.until(RUNNING, lambda running: running == 0, timeout_seconds=LONGEST_WAIT_SECONDS)
    os.kill(triton.pid, 0)
    # A new engine process would count from 0.
    assert await engine.read(CANCELLED) > before
    assert (await stub.Generate(question, timeout=120)).completions == answer


def generate(**fields: Any) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        model=MODEL, sampling=generation_pb2.SamplingParameters(max_tokens=2), **fields
    )


SYSTEM_TURN = common_pb2.Message(role=common_pb2.ROLE_SYSTEM, content="be brief")
USER_TURN = common_pb2.Message(role=common_pb2.ROLE_USER, content="hello")
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "prompt over the context": ({"prompt": "word " * 2000}, "PROMPT_TOO_LONG"),
    "NUL": ({"prompt": "a\0b"}, "INVALID_REQUEST"),
    "a role that the template rejects": (
        {"conversation": common_pb2.Conversation(messages=[SYSTEM_TURN, USER_TURN])},
        "CHAT_TEMPLATE_REJECTED",
    ),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_the_engine_refuses_is_its_own_items_error(channel: grpc.aio.Channel, name: str) -> None:
    fields, reason = BAD[name]
    stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
    items = {"good": generate(prompt="hello"), "bad": generate(**fields), "good too": generate(prompt="bye")}
    messages = [generation_pb2.StreamGenerateRequest(item_id=key, request=each) for key, each in items.items()]
    outcomes = {each.item_id: each async for each in stub.StreamGenerate(iter(messages))}
    assert from_status(outcomes["bad"].status).reason == reason
    assert outcomes["good"].HasField("response")
    assert outcomes["good too"].HasField("response")
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Generate(items["bad"])
    assert from_rpc_error(caught.value).reason == reason


async def test_one_bad_request_of_a_batch_is_its_own_error(channel: grpc.aio.Channel) -> None:
    bad = [generate(**fields) for fields, _ in BAD.values()]
    requests = [generate(prompt="hello"), *bad, generate(prompt="##"), generate(prompt="bye")]
    batch = generation_pb2.BatchGenerateRequest(requests=requests).SerializeToString().replace(b"##", b"\xff\xfe")
    call = channel.unary_unary(
        "/evalfleet.generation.v1.GenerationService/BatchGenerate",
        as_bytes,
        generation_pb2.BatchGenerateResponse.FromString,
    )
    results = (await call(batch)).results
    reasons = [from_status(each.status).reason if each.HasField("status") else "" for each in results]
    assert reasons == ["", *(reason for _, reason in BAD.values()), "MALFORMED_REQUEST", ""]


async def test_a_continuation_that_adds_no_token_is_its_own_items_error(channel: grpc.aio.Channel) -> None:
    stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
    # "T" and "h" are two tokens, "The" is one.
    contexts = {"good": "W", "merged": "Th", "good too": "x"}
    items = [
        generation_pb2.StreamScoreContinuationsRequest(
            item_id=key,
            request=generation_pb2.ScoreContinuationsRequest(model=MODEL, prompt=text, continuations=["x", "e"]),
        )
        for key, text in contexts.items()
    ]
    outcomes = {each.item_id: each async for each in stub.StreamScoreContinuations(iter(items))}
    failure = from_status(outcomes["merged"].status)
    assert failure.reason == "CONTINUATION_EMPTY"
    assert len(outcomes["good"].response.scores) == len(outcomes["good too"].response.scores) == 2
    with pytest.raises(grpc.RpcError) as caught:
        await stub.ScoreContinuations(items[1].request)
    assert from_rpc_error(caught.value).reason == "CONTINUATION_EMPTY"

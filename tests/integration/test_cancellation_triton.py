"""Callers that leave stop the engine in a real Triton, and what only the engine can see is a typed error."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from benchmarks.cancellation import GENERATED, RUNNING, WAVE, Callers, Engine
from benchmarks.endless_model import write_endless_model
from services.generation.settings import GenerationSettings
from services.generation.wiring import wire
from services.runtime.errors import from_rpc_error, from_status
from services.runtime.testing import serve_in_process
from tests.conftest import InferenceHost

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MODEL = "models/m"


@pytest.fixture
async def channel(triton: InferenceHost, tmp_path: Path, tiny_checkpoint: Path) -> AsyncIterator[grpc.aio.Channel]:
    endless = write_endless_model(tmp_path / "endless")
    settings = GenerationSettings(
        port=0,
        triton_target=triton.target,
        triton_key_file=triton.key_file,
        state_dir=tmp_path / "state",
        checkpoint_roots=f"{tmp_path}:{tiny_checkpoint.parent}",
    )
    async with (
        wire(settings, CollectorRegistry()) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        models: Any = model_pb2_grpc.ModelServiceStub(channel)
        for name, folder in {"endless": endless, "m": tiny_checkpoint}.items():
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
    await engine.until(RUNNING, lambda running: running >= WAVE)
    for call in calls:
        call.cancel()
    await engine.until(RUNNING, lambda running: running == 0, timeout_seconds=5.0)
    # The gauge may be read while no one computes, the counter cannot: complete answers have 4000 tokens each.
    generated = await engine.read(GENERATED)
    assert generated - before < WAVE * 4000 / 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "prompt over the context": ({"prompt": "word " * 2000}, "PROMPT_TOO_LONG"),
    "NUL": ({"prompt": "a\0b"}, "INVALID_REQUEST"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_the_engine_refuses_is_its_own_items_error(channel: grpc.aio.Channel, name: str) -> None:
    fields, reason = BAD[name]
    stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
    sampling = generation_pb2.SamplingParameters(max_tokens=2)
    good = generation_pb2.GenerateRequest(model=MODEL, prompt="hello", sampling=sampling)
    bad = generation_pb2.GenerateRequest(model=MODEL, **fields)
    items = {"good": good, "bad": bad, "good too": good}
    messages = [generation_pb2.StreamGenerateRequest(item_id=key, request=each) for key, each in items.items()]
    outcomes = {each.item_id: each async for each in stub.StreamGenerate(iter(messages))}
    assert from_status(outcomes["bad"].status).reason == reason
    assert outcomes["good"].HasField("response")
    assert outcomes["good too"].HasField("response")
    with pytest.raises(grpc.RpcError) as caught:
        await stub.Generate(bad)
    assert from_rpc_error(caught.value).reason == reason

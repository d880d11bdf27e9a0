"""Both services over real gRPC, on a fake inference server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.service import GENERATION_SERVICE
from services.generation.settings import GenerationSettings
from services.generation.wiring import wire, wire_backend
from services.runtime.errors import FailedPreconditionError, FleetError, StartupError, from_rpc_error, from_status
from services.runtime.testing import as_bytes, serve_in_process
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint


@pytest.fixture
def settings(tmp_path: Path) -> GenerationSettings:
    return GenerationSettings(
        port=0,
        state_dir=tmp_path / "state",
        checkpoint_roots=str(tmp_path / "checkpoints"),
        reconcile_interval_seconds=0.01,
        readiness_interval_seconds=0.01,
        create_wait_seconds=60.0,
    )


@pytest.fixture
async def channel(settings: GenerationSettings, backend: FakeInferenceBackend) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        wire_backend(settings, CollectorRegistry(), backend) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        yield channel


@pytest.fixture
def models(channel: grpc.aio.Channel) -> "model_pb2_grpc.ModelServiceAsyncStub":
    return model_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture
def generation(channel: grpc.aio.Channel) -> "generation_pb2_grpc.GenerationServiceAsyncStub":
    return generation_pb2_grpc.GenerationServiceStub(channel)


@pytest.fixture
async def model(models: "model_pb2_grpc.ModelServiceAsyncStub", checkpoint: Path) -> model_pb2.Model:
    response = await models.CreateModel(model_pb2.CreateModelRequest(model_id="m", checkpoint_path=str(checkpoint)))
    return response.model


async def failure(call: Awaitable[object]) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_models_life(
    models: "model_pb2_grpc.ModelServiceAsyncStub", model: model_pb2.Model, checkpoint: Path
) -> None:
    assert (model.name, model.state, model.checkpoint_path) == (
        "models/m",
        model_pb2.MODEL_STATE_READY,
        str(checkpoint),
    )
    assert (await models.GetModel(model_pb2.GetModelRequest(name="models/m"))).model == model
    await models.DeleteModel(model_pb2.DeleteModelRequest(name="models/m"))
    error = await failure(models.GetModel(model_pb2.GetModelRequest(name="models/m")))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_models_are_listed_in_pages(models: "model_pb2_grpc.ModelServiceAsyncStub", checkpoint: Path) -> None:
    for model_id in ("c", "a", "b"):
        await models.CreateModel(model_pb2.CreateModelRequest(model_id=model_id, checkpoint_path=str(checkpoint)))
    first = await models.ListModels(model_pb2.ListModelsRequest(page_size=2))
    second = await models.ListModels(model_pb2.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [model.name for model in first.models] == ["models/a", "models/b"]
    assert [model.name for model in second.models] == ["models/c"]
    assert second.next_page_token == ""
    for request in (model_pb2.ListModelsRequest(page_size=-1), model_pb2.ListModelsRequest(page_token="nonsense")):
        assert (await failure(models.ListModels(request))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_generation_reaches_the_engine_and_comes_back(
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub", model: model_pb2.Model
) -> None:
    response = await generation.Generate(
        generation_pb2.GenerateRequest(
            model=model.name,
            conversation=common_pb2.Conversation(
                messages=[common_pb2.Message(role=common_pb2.ROLE_USER, content="Hi")]
            ),
        )
    )
    assert [completion.text.split("|")[1] for completion in response.completions] == ["user: Hi"]
    assert response.model_digest == model.digest


async def test_a_prompt_that_is_too_long_keeps_its_reason_and_figures(
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub", model: model_pb2.Model, backend: FakeInferenceBackend
) -> None:
    figures = {"prompt_tokens": "70", "context_tokens": "64"}
    backend.failures["long"] = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG", metadata=figures)
    error = await failure(generation.Generate(generation_pb2.GenerateRequest(model=model.name, prompt="long")))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROMPT_TOO_LONG")
    assert error.metadata == figures


async def test_a_batch_reports_each_item_by_itself(
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub", model: model_pb2.Model
) -> None:
    requests = [
        generation_pb2.GenerateRequest(model=model.name, prompt="a"),
        generation_pb2.GenerateRequest(model=model.name, sample_count=2),
        generation_pb2.GenerateRequest(model="models/n", prompt="b"),
        generation_pb2.GenerateRequest(model=model.name, prompt="c"),
    ]
    response = await generation.BatchGenerate(generation_pb2.BatchGenerateRequest(requests=requests))
    assert [result.WhichOneof("outcome") for result in response.results] == ["response", "status", "status", "response"]
    invalid, unknown = from_status(response.results[1].status), from_status(response.results[2].status)
    assert {violation.field for violation in invalid.field_violations} == {"prompt", "sample_count"}
    assert unknown.code is grpc.StatusCode.NOT_FOUND
    assert response.results[3].response.completions[0].text.split("|")[1] == "c"


async def test_a_request_of_a_batch_that_is_no_message_is_its_own_error(
    channel: grpc.aio.Channel, model: model_pb2.Model
) -> None:
    requests = [
        generation_pb2.GenerateRequest(model=model.name, prompt=prompt) for prompt in ("a", "##", "nul\0", "", "c")
    ]
    batch = generation_pb2.BatchGenerateRequest(requests=requests).SerializeToString().replace(b"##", b"\xff\xfe")
    call = channel.unary_unary(
        f"/{GENERATION_SERVICE}/BatchGenerate", as_bytes, generation_pb2.BatchGenerateResponse.FromString
    )
    results = (await call(batch)).results
    reasons = [from_status(each.status).reason if each.HasField("status") else "" for each in results]
    assert reasons == ["", "MALFORMED_REQUEST", "INVALID_REQUEST", "INVALID_REQUEST", ""]
    assert results[4].response.completions[0].text.split("|")[1] == "c"
    # What is not even a list of requests is refused, and so is a lone request.
    lone = channel.unary_unary(f"/{GENERATION_SERVICE}/Generate", as_bytes, as_bytes)
    for wrong in (call(b"\xff\xff\xff"), call(batch[:-1]), lone(b"\x12\x02\xff\xfe")):
        assert (await failure(wrong)).reason == "MALFORMED_REQUEST"


async def test_scores_come_back(
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub", model: model_pb2.Model
) -> None:
    request = generation_pb2.ScoreContinuationsRequest(model=model.name, prompt="", continuations=["a", "bc"])
    response = await generation.ScoreContinuations(request)
    assert [score.log_likelihood for score in response.scores] == [-1.0, -2.0]


async def test_whole_requests_that_are_invalid_fail_with_their_fields(
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub", models: "model_pb2_grpc.ModelServiceAsyncStub"
) -> None:
    batch = generation_pb2.BatchGenerateRequest(requests=[generation_pb2.GenerateRequest()] * 257)
    for call in (
        generation.BatchGenerate(batch),
        generation.Generate(generation_pb2.GenerateRequest()),
        generation.ScoreContinuations(generation_pb2.ScoreContinuationsRequest()),
        models.CreateModel(model_pb2.CreateModelRequest()),
        models.GetModel(model_pb2.GetModelRequest()),
        models.DeleteModel(model_pb2.DeleteModelRequest(name="x")),
    ):
        error = await failure(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.field_violations


async def test_a_call_that_its_caller_gives_up_stops_the_engine(
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub", model: model_pb2.Model, backend: FakeInferenceBackend
) -> None:
    backend.gate = asyncio.Event()
    call = generation.Generate(generation_pb2.GenerateRequest(model=model.name, prompt="a"))
    await backend.until(lambda: backend.in_flight == 1)
    call.cancel()
    await backend.until(lambda: backend.cancelled == 1)


async def test_health_follows_the_inference_server(
    channel: grpc.aio.Channel,
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub",
    backend: FakeInferenceBackend,
) -> None:
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=GENERATION_SERVICE))
    states = aiter(watch)
    assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
    backend.is_up = False
    assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    backend.is_up = True
    assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_key_file_that_cannot_be_read_is_reported(settings: GenerationSettings, tmp_path: Path) -> None:
    broken = settings.model_copy(update={"triton_key_file": tmp_path})
    with pytest.raises(StartupError, match="EVALFLEET_TRITON_KEY_FILE"):
        async with wire(broken, CollectorRegistry()):
            pass


async def test_checkpoints_outside_the_roots_do_not_exist_for_callers(
    models: "model_pb2_grpc.ModelServiceAsyncStub", tmp_path: Path
) -> None:
    outside = write_checkpoint(tmp_path / "outside")
    error = await failure(models.CreateModel(model_pb2.CreateModelRequest(checkpoint_path=str(outside))))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CHECKPOINT_OUTSIDE_ROOTS")


async def test_callers_pay_for_what_was_computed_and_see_it_listed(
    settings: GenerationSettings, backend: FakeInferenceBackend, checkpoint: Path, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text('{"prices": [{"usd_per_engine_second": 0.002}]}')
    priced = settings.model_copy(update={"price_table": prices})
    metrics = CollectorRegistry()
    async with (
        wire_backend(priced, metrics, backend) as services,
        serve_in_process(*services, settings=priced) as channel,
    ):
        models, generation = (
            model_pb2_grpc.ModelServiceStub(channel),
            generation_pb2_grpc.GenerationServiceStub(channel),
        )
        await models.CreateModel(model_pb2.CreateModelRequest(model_id="m", checkpoint_path=str(checkpoint)))
        request = generation_pb2.GenerateRequest(model="models/m", prompt="hi", explain_cache=True)
        first, second = [
            await generation.Generate(request, metadata=(("evalfleet-caller", caller),)) for caller in ("ann", "bob")
        ]
        scoring = generation_pb2.ScoreContinuationsRequest(model="models/m", prompt="hi", continuations=["a"])
        await generation.ScoreContinuations(scoring)
        listed = await generation.ListCallerUsage(generation_pb2.ListCallerUsageRequest(page_size=2))
        token = generation_pb2.ListCallerUsageRequest(page_size=2, page_token=listed.next_page_token)
        rest = await generation.ListCallerUsage(token)
        error = await failure(generation.Generate(request, metadata=(("evalfleet-caller", "no name"),)))
    assert error.reason == "CALLER_INVALID"
    assert (first.cached, second.cached) == (False, True)
    assert first.cache_explanation.outcome == generation_pb2.CACHE_OUTCOME_MISS
    assert second.cache_explanation.outcome == generation_pb2.CACHE_OUTCOME_HIT
    assert second.completions[0].text == first.completions[0].text
    tokens = first.usage.prompt_tokens + first.usage.completion_tokens
    assert (first.usage.cost_micro_usd, first.usage.cache_saved_tokens) == (1000, 0)
    assert (second.usage.cost_micro_usd, second.usage.cache_saved_tokens) == (0, tokens)
    assert second.usage.engine_time.ToNanoseconds() == 0
    by_name = {each.caller: each for each in (*listed.callers, *rest.callers)}
    assert list(by_name) == ["ann", "anonymous", "bob"]
    assert by_name["ann"].usage == first.usage
    assert (by_name["bob"].cached_request_count, by_name["bob"].usage) == (1, second.usage)
    assert by_name["anonymous"].usage.cost_micro_usd == 500
    labels = {"caller": "bob", "kind": "cache_saved"}
    assert metrics.get_sample_value("evalfleet_generation_caller_tokens_total", labels) == tokens

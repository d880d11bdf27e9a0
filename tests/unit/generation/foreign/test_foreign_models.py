"""Foreign models through the whole service: their servers go away, lie, or are not to be asked any more."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import fsspec
import grpc
import numpy as np
import pytest
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire_backend
from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.testing import serve_in_process
from tests.fakes.foreign_triton import MODEL, FakeForeignTriton
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint
from tests.fakes.tokenizer_folder import write_tokenizer
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS

VLLM = model_pb2.FOREIGN_PROTOCOL_VLLM_BACKEND


@pytest.fixture
async def server(tokenizer_folder: Path) -> AsyncIterator[FakeForeignTriton]:
    server = FakeForeignTriton(tokenizer_folder)
    await server.start()
    yield server
    await server.stop()


class Service:
    """A running generation service."""

    def __init__(
        self, channel: grpc.aio.Channel, metrics: CollectorRegistry, target: str, tokenizer: Path, root: Path
    ) -> None:
        self.root = root
        self.models: Any = model_pb2_grpc.ModelServiceStub(channel)
        self.generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self.metrics = metrics
        self.target = target
        self.tokenizer = tokenizer

    async def register(self, path: str = "", model_id: str = "f", **changes: Any) -> model_pb2.Model:
        told: dict[str, Any] = {"target": self.target, "model_name": MODEL, "protocol": VLLM, "revision": "w1"}
        request = model_pb2.CreateModelRequest(
            model_id=model_id,
            checkpoint_path=path or str(self.tokenizer),
            foreign=model_pb2.ForeignTriton(**told | changes),
        )
        return (await self.models.CreateModel(request, timeout=10)).model  # type: ignore[no-any-return]

    async def generate(self, prompt: str = "2 + 3 =", seconds: float = 10, **fields: Any) -> Any:
        sampling = generation_pb2.SamplingParameters(**{"max_tokens": 16} | fields.pop("sampling", {}))
        bypass = {"cache_mode": generation_pb2.CACHE_MODE_BYPASS}
        request = generation_pb2.GenerateRequest(model="models/f", prompt=prompt, sampling=sampling, **bypass | fields)
        return await self.generation.Generate(request, timeout=seconds)

    async def state(self, model_id: str = "f") -> model_pb2.Model:
        request = model_pb2.GetModelRequest(name=f"models/{model_id}")
        return (await self.models.GetModel(request, timeout=10)).model  # type: ignore[no-any-return]


Start = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def start(server: FakeForeignTriton, backend: FakeInferenceBackend, tokenizer_folder: Path, tmp_path: Path) -> Start:
    """Start a service on the test's state folder; ``changes`` are settings."""

    @asynccontextmanager
    async def running(**changes: Any) -> AsyncIterator[Service]:
        told: dict[str, Any] = {
            "port": 0,
            "state_dir": tmp_path / "state",
            "checkpoint_roots": f"{tokenizer_folder}:{tmp_path}",
            "foreign_tritons": server.target,
            "reconcile_interval_seconds": 0.02,
        }
        settings, metrics = GenerationSettings(**told | changes), CollectorRegistry()
        async with (
            wire_backend(settings, metrics, backend) as services,
            serve_in_process(*services, settings=settings) as channel,
        ):
            yield Service(channel, metrics, server.target, tokenizer_folder, tmp_path)

    return running


@pytest.fixture
async def service(start: Start) -> AsyncIterator[Service]:
    async with start() as running:
        yield running


async def error_of(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def until(is_so: Callable[[], Any]) -> None:
    """Wait for a state of the service, which tells nobody when it changes."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not await is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_server_that_is_away_registers_nothing(service: Service, server: FakeForeignTriton) -> None:
    await server.stop()
    error = await error_of(service.register())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "FOREIGN_UNREACHABLE")
    assert error.retry_after_seconds
    assert not (await service.models.ListModels(model_pb2.ListModelsRequest())).models


async def test_a_model_that_is_not_ready_registers_nothing(service: Service, server: FakeForeignTriton) -> None:
    server.is_ready = False
    error = await error_of(service.register())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "FOREIGN_MODEL_NOT_READY")
    assert not (await service.models.ListModels(model_pb2.ListModelsRequest())).models


async def test_a_server_that_comes_back_is_asked_again(service: Service, server: FakeForeignTriton) -> None:
    await service.register()
    await server.stop()
    error = await error_of(service.generate())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "FOREIGN_UNREACHABLE")
    assert error.retry_after_seconds
    await server.start()

    async def is_ready_again() -> bool:
        return (await service.state()).state == model_pb2.MODEL_STATE_READY

    await until(is_ready_again)
    assert (await service.generate()).completions[0].text == "five"


async def test_a_model_that_its_deployer_loads_anew_is_asked_again(service: Service, server: FakeForeignTriton) -> None:
    await service.register()
    server.model_name = "another"
    error = await error_of(service.generate())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "FOREIGN_MODEL_NOT_READY")
    server.model_name = MODEL
    assert (await service.generate()).completions[0].text == "five"


async def test_a_registered_model_survives_a_restart_and_a_shorter_list(start: Start) -> None:
    async with start() as service:
        await service.register()
    async with start() as service:
        assert (await service.generate()).completions[0].text == "five"
    async with start(foreign_tritons="") as service:

        async def has_failed() -> bool:
            return (await service.state()).state == model_pb2.MODEL_STATE_FAILED

        await until(has_failed)
        assert "EVALFLEET_FOREIGN_TRITONS" in (await service.state()).failure
        assert "EVALFLEET_FOREIGN_TRITONS" in (await error_of(service.generate())).message


async def test_a_tokenizer_that_changed_is_noticed(start: Start, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "changing")
    async with start() as service:
        await service.register(str(folder))
    (folder / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    async with start() as service:
        error = await error_of(service.generate())
        assert "was changed while or after it was registered" in error.message


async def test_foreign_models_take_no_memory_and_need_no_server_of_ours(
    start: Start, backend: FakeInferenceBackend, tmp_path: Path
) -> None:
    async with start(model_memory_bytes=1) as service:
        own = model_pb2.CreateModelRequest(model_id="own", checkpoint_path=str(write_checkpoint(tmp_path / "own")))
        await service.models.CreateModel(own, timeout=10)
        await service.register()
        assert (await service.state("own")).state == model_pb2.MODEL_STATE_READY
        backend.kill()
        assert (await service.generate()).completions[0].text == "five"
        await service.models.DeleteModel(model_pb2.DeleteModelRequest(name="models/f"), timeout=10)
        assert (await error_of(service.generate())).reason == "MODEL_NOT_FOUND"


async def test_a_tokenizer_may_not_link_out_of_the_roots(service: Service, tmp_path_factory: Any) -> None:
    outside = write_tokenizer(tmp_path_factory.mktemp("elsewhere") / "llama")
    assert (await error_of(service.register(str(outside)))).reason == "CHECKPOINT_OUTSIDE_ROOTS"
    linking = write_tokenizer(service.root / "linking")
    (linking / "tokenizer.json").unlink()
    (linking / "tokenizer.json").symlink_to(outside / "tokenizer.json")
    assert (await error_of(service.register(str(linking)))).reason == "CHECKPOINT_OUTSIDE_ROOTS"


async def test_an_id_stands_for_one_foreign_model(service: Service) -> None:
    first = await service.register()
    assert (await service.register()).digest == first.digest
    assert (await error_of(service.register(revision="w2"))).reason == "MODEL_EXISTS"
    assert (await service.register(model_id="g", revision="w2")).digest != first.digest


async def test_a_deadline_ends_the_work_there(service: Service, server: FakeForeignTriton) -> None:
    await service.register()
    server.gate = asyncio.Event()
    for seconds in GROWING_SECONDS:
        error = await error_of(service.generate(seconds=seconds))
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        if server.requests:
            break
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await server.left.wait()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (lambda answer: [], "FOREIGN_ANSWER_INCOMPLETE"),
        (lambda answer: [answer, answer], "FOREIGN_ANSWER_INVALID"),
        (lambda answer: ["something went wrong"], "FOREIGN_REQUEST_FAILED"),
        (lambda answer: [{**answer, "num_output_tokens": np.array([17], np.uint32)}], "FOREIGN_ANSWER_INVALID"),
        (lambda answer: [{**answer, "num_input_tokens": np.array([99], np.uint32)}], "FOREIGN_TOKEN_COUNT_MISMATCH"),
        (lambda answer: [{"text_output": answer["text_output"]}], "FOREIGN_ANSWER_INCOMPLETE"),
    ],
)
async def test_what_is_no_answer_is_a_typed_error_and_counted(
    service: Service, server: FakeForeignTriton, messages: Any, reason: str
) -> None:
    await service.register()
    server.messages = messages
    assert (await error_of(service.generate())).reason == reason
    labels = {"protocol": "vllm_backend", "outcome": reason}
    assert service.metrics.get_sample_value("evalfleet_generation_foreign_requests_total", labels) == 1


async def test_an_answer_that_is_broken_off_is_none(service: Service, server: FakeForeignTriton) -> None:
    await service.register()
    server.is_final = False
    assert (await error_of(service.generate())).reason == "FOREIGN_ANSWER_INCOMPLETE"


async def test_the_window_bounds_prompt_and_answer(service: Service, server: FakeForeignTriton) -> None:
    model = await service.register()
    assert model.context_tokens == 64
    await service.generate("x" * 60, sampling={"max_tokens": 1000})
    assert server.sampling["max_tokens"] == 64 - 61  # with BOS
    assert (await error_of(service.generate("x" * 64))).reason == "PROMPT_TOO_LONG"
    left = generation_pb2.TRUNCATION_POLICY_LEFT
    assert (await error_of(service.generate("x" * 64, truncation=left))).reason == "FOREIGN_TRUNCATION_UNSUPPORTED"
    assert (await service.generate("x", truncation=left)).completions[0].text == "five"


async def test_one_bad_item_leaves_the_others_alone(service: Service) -> None:
    await service.register()
    requests = [
        generation_pb2.GenerateRequest(model="models/f", prompt=prompt) for prompt in ("2 + 3 =", "x" * 64, "1 + 4 =")
    ]
    response = await service.generation.BatchGenerate(
        generation_pb2.BatchGenerateRequest(requests=requests), timeout=10
    )
    assert [each.WhichOneof("outcome") for each in response.results] == ["response", "status", "response"]


async def test_a_tokenizer_is_fetched_without_the_weights_beside_it(start: Start, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(write_tokenizer(tmp_path / "llama")), "/bucket/llama", recursive=True)
    files.pipe("/bucket/llama/model.safetensors", b"gigabytes")
    try:
        async with start(checkpoint_protocols="memory") as service:
            model = await service.register("memory://bucket/llama")
            assert model.checkpoint_path == "memory://bucket/llama"
            assert (await service.generate()).completions[0].text == "five"
    finally:
        files.rm("/bucket", recursive=True)
    assert list((tmp_path / "state").rglob("tokenizer.json"))
    assert not list((tmp_path / "state").rglob("*.safetensors"))

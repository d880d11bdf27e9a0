import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from services.generation.backend import Deployment, EngineAnswer
from services.generation.engine_router import EngineRouter
from services.generation.registration import Registration
from services.generation.requests import GenerationRequest, Sampling, TextPiece
from services.generation.residency import MemoryLimits
from services.inference import contract
from services.inference.client import InferenceClient
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.host_contract import CHECKPOINT, HOST_MODEL, OPERATION, REPORT, HostReport, parse_operation
from services.inference.tensors import read_request, write_response
from services.inference.vllm_shapes import VLLM_HOST_PREFIX
from services.runtime.errors import DeadlineExceededError, FailedPreconditionError, FleetError
from tests.fakes.generation_domain import StartDomain
from tests.fakes.inference_backend import write_checkpoint
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS, has_begun


class FakeTritonHosts(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Speaks Triton's protocol with checkpoint hosts that come and go; an answer says which host gave it."""

    def __init__(self) -> None:
        self.hosts: dict[str, dict[str, contract.CausalLMArguments]] = {}
        self.stops: list[str] = []
        self.failure: InferenceFailure | None = None
        self.gate: asyncio.Event | None = None
        self.silent: set[str] = set()
        self.loading = asyncio.Event()

    async def ModelStreamInfer(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            inputs, host = read_request(request), request.model_name
            if host not in self.hosts:
                yield kserve.ModelStreamInferResponse(error_message=f"Request for unknown model: '{host}' is not found")
                continue
            try:
                outputs = await self._operate(host, inputs) if OPERATION in inputs else self._answer(host, inputs)
            except InferenceFailure as failure:
                yield kserve.ModelStreamInferResponse(error_message=encode_failure(failure))
                continue
            response = write_response(host, request.id, outputs)
            response.parameters["triton_final_response"].bool_param = True
            yield kserve.ModelStreamInferResponse(infer_response=response)

    async def _operate(self, host: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        operation = parse_operation(text(inputs[OPERATION]))
        if operation.kind == "load":
            self.loading.set()
            if self.failure:
                raise self.failure
            if self.gate:
                # Whoever asked may be gone: the host goes on.
                await asyncio.shield(self.gate.wait())
            assert operation.arguments is not None
            self.hosts[host].setdefault(operation.name, operation.arguments)
        elif operation.kind == "unload":
            self.hosts[host].pop(operation.name, None)
        elif host in self.silent:
            await asyncio.Event().wait()
        report = HostReport(tuple(self.hosts[host]), memory_bytes=1 << 20)
        return {REPORT: np.array([report.to_json().encode()], dtype=np.object_)}

    def _answer(self, host: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        checkpoint = text(inputs[CHECKPOINT])
        if checkpoint not in self.hosts[host]:
            raise InferenceFailure("not loaded", reason="MODEL_NOT_LOADED", code="NOT_FOUND")
        if contract.CONTINUATIONS in inputs:
            return {
                contract.CONTINUATION_LOG_LIKELIHOODS: np.array([float(len(host))], dtype=np.float64),
                contract.CONTINUATION_IS_GREEDY: np.array([True]),
                contract.CONTINUATION_NUM_TOKENS: np.array([1], dtype=np.uint32),
                contract.NUM_INPUT_TOKENS: np.array([4], dtype=np.uint32),
            }
        return {
            contract.TEXT_OUTPUT: np.array([host.encode()], dtype=np.object_),
            contract.FINISH_REASON: np.array([b"stop"], dtype=np.object_),
            contract.NUM_INPUT_TOKENS: np.array([4], dtype=np.uint32),
            contract.NUM_OUTPUT_TOKENS: np.array([2], dtype=np.uint32),
        }

    async def ServerReady(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return kserve.ServerReadyResponse(ready=True)

    async def RepositoryModelLoad(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self.hosts.setdefault(request.model_name, {})
        return kserve.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        assert not self.hosts.pop(request.model_name, None), "a host was stopped that held something"
        self.stops.append(request.model_name)
        return kserve.RepositoryModelUnloadResponse()

    async def RepositoryIndex(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return kserve.RepositoryIndexResponse()

    async def ModelStatistics(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return kserve.ModelStatisticsResponse(model_stats=[kserve.ModelStatistics(name=name) for name in self.hosts])


def text(array: Any) -> str:
    return str(array.ravel()[0].decode())


@pytest.fixture
async def triton() -> AsyncIterator[tuple[FakeTritonHosts, str]]:
    servicer, server = FakeTritonHosts(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.fixture
def hosts(triton: tuple[FakeTritonHosts, str]) -> FakeTritonHosts:
    return triton[0]


@pytest.fixture
async def client(triton: tuple[FakeTritonHosts, str]) -> AsyncIterator[InferenceClient]:
    async with InferenceClient(triton[1], model_control_key="k") as client:
        yield client


@pytest.fixture
def router(client: InferenceClient) -> EngineRouter:
    return EngineRouter(client)


@pytest.fixture
def backend(router: EngineRouter) -> EngineRouter:
    """What ``start_domain`` builds on."""
    return router


def vllm(folder: Path, name: str, *, layers: int = 2, rank: int | None = None) -> Deployment:
    """Write a checkpoint of a shape, and an adapter of a rank on it."""
    checkpoint, adapter = folder / name, folder / f"{name}-adapter"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
    if rank is not None:
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return Deployment(name, str(checkpoint), "float32", "vllm", str(adapter) if rank is not None else "")


async def answer(router: EngineRouter, name: str) -> str:
    return (await router.generate(name, "x", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)).text


async def test_every_kind_of_request_goes_to_the_host_of_its_engine(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    await router.load(Deployment("own", "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS)
    await router.load(vllm(tmp_path, "other"), timeout_seconds=LONGEST_WAIT_SECONDS)
    [host] = hosts.hosts.keys() - {HOST_MODEL}
    assert host.startswith(VLLM_HOST_PREFIX)
    assert (await answer(router, "own"), await answer(router, "other")) == (HOST_MODEL, host)
    for name, where in (("own", HOST_MODEL), ("other", host)):
        pieces = router.generate_pieces(name, "x", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
        texts = [each.text async for each in pieces if isinstance(each, TextPiece | EngineAnswer)]
        assert texts == [where, where]
        scores = await router.score(name, "x", ["a"], truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
        assert scores.scores[0].log_likelihood == len(where)
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"own", "other"}
    await router.unload("other", timeout_seconds=LONGEST_WAIT_SECONDS)
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"own"}
    assert hosts.stops == [], "the next checkpoint of its shape is read into it"


async def test_adapters_travel_by_name_and_share_a_host_by_rank(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    for name, rank in (("base", None), ("one", 8), ("two", 8)):
        await router.load(vllm(tmp_path, name, rank=rank), timeout_seconds=LONGEST_WAIT_SECONDS)
    held = sorted(sorted(each) for each in hosts.hosts.values())
    assert held == [["base"], ["one", "two"]]
    [arguments] = [each["one"] for each in hosts.hosts.values() if "one" in each]
    assert arguments.adapter == str(tmp_path / "one-adapter")


async def test_an_adapter_without_configuration_is_a_typed_error(router: EngineRouter, tmp_path: Path) -> None:
    deployment = vllm(tmp_path, "m")
    broken = Deployment("m", deployment.checkpoint_path, "float32", "vllm", str(tmp_path / "none"))
    with pytest.raises(FailedPreconditionError):
        await router.load(broken, timeout_seconds=LONGEST_WAIT_SECONDS)


async def test_an_idle_host_makes_room_for_another_shape_and_a_busy_one_does_not(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    await router.load(vllm(tmp_path, "a", layers=1), timeout_seconds=LONGEST_WAIT_SECONDS)
    await router.load(vllm(tmp_path, "b", layers=2), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert (len(hosts.hosts), hosts.stops) == (2, [])
    await router.unload("a", timeout_seconds=LONGEST_WAIT_SECONDS)
    await router.load(vllm(tmp_path, "c", layers=3), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert (len(hosts.hosts), len(hosts.stops)) == (2, 1)
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"b", "c"}


async def test_a_host_that_is_being_loaded_into_is_not_idle(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    hosts.gate = asyncio.Event()
    first = asyncio.create_task(router.load(vllm(tmp_path, "a", layers=1), timeout_seconds=LONGEST_WAIT_SECONDS))
    await hosts.loading.wait()
    hosts.loading.clear()
    second = asyncio.create_task(router.load(vllm(tmp_path, "b", layers=2), timeout_seconds=LONGEST_WAIT_SECONDS))
    await hosts.loading.wait()
    hosts.gate.set()
    await asyncio.gather(first, second)
    assert hosts.stops == []
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"a", "b"}


async def test_one_shape_asked_for_twice_at_once_starts_one_host(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    loads = (router.load(vllm(tmp_path, name), timeout_seconds=LONGEST_WAIT_SECONDS) for name in "abc")
    await asyncio.gather(*loads)
    assert [sorted(each) for each in hosts.hosts.values()] == [["a", "b", "c"]]


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_an_unload_reaches_what_was_given_up_while_it_was_loaded(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path, how: str
) -> None:
    hosts.gate = asyncio.Event()
    deployment = vllm(tmp_path, "a")
    for seconds in GROWING_SECONDS if how == "timed out" else (LONGEST_WAIT_SECONDS,):
        load = asyncio.create_task(router.load(deployment, timeout_seconds=seconds))
        if await has_begun(load, hosts.loading):
            break
        await asyncio.gather(load, return_exceptions=True)
    if how == "cancelled":
        load.cancel()
    with pytest.raises((asyncio.CancelledError, DeadlineExceededError)):
        await load
    # The host finishes such a load on its own.
    [held] = hosts.hosts.values()
    held["a"] = contract.CausalLMArguments("/c")
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"a"}
    await router.unload("a", timeout_seconds=LONGEST_WAIT_SECONDS)
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == frozenset()


async def test_what_the_engine_refuses_is_not_loaded(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    hosts.failure = InferenceFailure("DoRA", reason="ADAPTER_UNSUPPORTED", code="FAILED_PRECONDITION")
    with pytest.raises(FleetError) as caught:
        await router.load(vllm(tmp_path, "a", layers=1), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert caught.value.reason == "ADAPTER_UNSUPPORTED"
    hosts.failure = None
    await router.load(vllm(tmp_path, "b", layers=2), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert len(hosts.stops) == 1, "the host that holds nothing has made room"


async def test_a_restarted_service_finds_its_hosts_again(
    router: EngineRouter, client: InferenceClient, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    await router.load(vllm(tmp_path, "a", layers=1), timeout_seconds=LONGEST_WAIT_SECONDS)
    await router.load(vllm(tmp_path, "b", layers=2), timeout_seconds=LONGEST_WAIT_SECONDS)
    again = EngineRouter(client)
    assert await again.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"a", "b"}
    assert (await answer(again, "a")).startswith(VLLM_HOST_PREFIX)
    once_more = EngineRouter(client)
    await once_more.unload("a", timeout_seconds=LONGEST_WAIT_SECONDS)
    await once_more.load(vllm(tmp_path, "c", layers=3), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert len(hosts.stops) == 1
    assert await once_more.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"b", "c"}


async def test_models_of_both_engines_are_evicted_and_come_back(
    start_domain: StartDomain, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    domain = await start_domain(memory=MemoryLimits(budget_bytes=250, overhead_bytes=100, patience_seconds=0.05))

    def states() -> dict[str, str]:
        return {record.model_id: record.state.value for record in domain.lifecycle.records()}

    def held() -> list[str]:
        return sorted(name.split("-")[1] for each in hosts.hosts.values() for name in each)

    async def host_of(model_id: str) -> str:
        return (await domain.generator.generate(GenerationRequest(model_id, "hello"))).completions[0].text

    for name, engine in (("a", "transformers"), ("b", "vllm"), ("c", "vllm")):
        folder = write_checkpoint(tmp_path / "checkpoints" / name, content=name)
        await domain.registrar.create(Registration(str(folder), name, engine=engine))
    assert states() == {"a": "evicted", "b": "ready", "c": "ready"}
    assert held() == ["b", "c"]
    assert (await host_of("b")).startswith(VLLM_HOST_PREFIX)
    assert await host_of("a") == HOST_MODEL
    assert states() == {"a": "ready", "b": "ready", "c": "evicted"}
    assert (await host_of("c")).startswith(VLLM_HOST_PREFIX)
    assert held() == ["a", "c"]
    assert hosts.stops == [], "one vLLM host held all that were of its shape"


async def test_a_silent_host_hides_nothing_of_the_others(
    router: EngineRouter, hosts: FakeTritonHosts, tmp_path: Path
) -> None:
    await router.load(Deployment("own", "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS)
    await router.load(vllm(tmp_path, "a"), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert await router.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"own", "a"}
    hosts.silent = {each for each in hosts.hosts if each != HOST_MODEL}
    hosts.hosts[HOST_MODEL].clear()
    for seconds in GROWING_SECONDS:
        names = await router.loaded_names(timeout_seconds=seconds)
        if names == {"a"}:
            break
    assert names == {"a"}

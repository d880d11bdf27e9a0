import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from services.generation.backend import Deployment
from services.generation.errors import ModelControlRefusedError, ModelLostError
from services.generation.requests import ContinuationScore, FinishReason, Sampling, Turn
from services.generation.settings import GenerationSettings
from services.generation.triton_backend import TritonBackend
from services.inference import contract
from services.inference.client import InferenceClient
from services.inference.contract import DEFAULT_BOUNDS, CausalLMArguments, EngineBounds
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.host_contract import (
    CHECKPOINT,
    CONTROL_KEY,
    HOST_MODEL,
    OPERATION,
    REPORT,
    HostArguments,
    HostReport,
    parse_operation,
)
from services.inference.tensors import read_request, write_response
from services.runtime.errors import FleetError
from tests.patience import LONGEST_WAIT_SECONDS

Outputs = Mapping[str, "np.ndarray[Any, Any]"]
ANSWER: Outputs = {
    contract.TEXT_OUTPUT: np.array([b"five"], dtype=np.object_),
    contract.FINISH_REASON: np.array([b"length"], dtype=np.object_),
    contract.NUM_INPUT_TOKENS: np.array([11], dtype=np.uint32),
    contract.NUM_OUTPUT_TOKENS: np.array([2], dtype=np.uint32),
    contract.NUM_TRUNCATED_TOKENS: np.array([3], dtype=np.uint32),
    contract.ENGINE_SECONDS: np.array([0.25], dtype=np.float64),
}
SCORES: Outputs = {
    contract.CONTINUATION_LOG_LIKELIHOODS: np.array([-1.5, -2.5], dtype=np.float64),
    contract.CONTINUATION_IS_GREEDY: np.array([True, False]),
    contract.CONTINUATION_NUM_TOKENS: np.array([1, 2], dtype=np.uint32),
    contract.NUM_INPUT_TOKENS: np.array([4], dtype=np.uint32),
}


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Speaks Triton's protocol: one prepared answer or error text, a checkpoint host, a memory of what it was asked."""

    def __init__(self) -> None:
        self.answer: Outputs = ANSWER
        self.error = ""
        self.inputs: Mapping[str, Any] = {}
        self.asked: list[str] = []
        self.checkpoints: dict[str, Any] = {}
        self.host: HostArguments | None = None
        self.is_crashed = False
        self.starts = 0

    async def ModelStreamInfer(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async for request in requests:
            self.inputs = read_request(request)
            self.asked.append(request.model_name)
            error = self.error or self._host_error() * (OPERATION in self.inputs)
            if error:
                yield kserve.ModelStreamInferResponse(error_message=error)
                continue
            answer = self._operate(self.inputs) if OPERATION in self.inputs else self.answer
            response = write_response(request.model_name, request.id, answer)
            response.parameters["triton_final_response"].bool_param = True
            yield kserve.ModelStreamInferResponse(infer_response=response)

    def _host_error(self) -> str:
        if self.is_crashed:
            return f"Failed to process the request(s), message: Stub process '{HOST_MODEL}_0' is not healthy."
        return "" if self.host else f"Request for unknown model: '{HOST_MODEL}' is not found"

    def _operate(self, inputs: Mapping[str, Any]) -> Outputs:
        assert self.host is not None
        assert self.host.allows(text(inputs[CONTROL_KEY]))
        operation = parse_operation(text(inputs[OPERATION]))
        if operation.kind == "load":
            self.checkpoints[operation.name] = operation.arguments
        self.checkpoints = {
            k: v for k, v in self.checkpoints.items() if (operation.kind, k) != ("unload", operation.name)
        }
        report = HostReport(tuple(self.checkpoints), memory_bytes=1 << 20)
        return {REPORT: np.array([report.to_json().encode()], dtype=np.object_)}

    async def RepositoryModelLoad(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        assert request.model_name == HOST_MODEL
        if self.error:
            await context.abort(grpc.StatusCode.INTERNAL, self.error)
        if self.host is None:
            self.host = HostArguments(**json.loads(request.parameters["file:1/model.json"].bytes_param))
            self.starts += 1
        return kserve.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        assert request.model_name == HOST_MODEL
        self.host, self.is_crashed, self.checkpoints = None, False, {}
        return kserve.RepositoryModelUnloadResponse()


@asynccontextmanager
async def serving(
    servicer: FakeTriton, host_model: str = HOST_MODEL, bounds: EngineBounds = DEFAULT_BOUNDS
) -> AsyncIterator[TritonBackend]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with InferenceClient(f"127.0.0.1:{port}", model_control_key="k") as client:
        yield TritonBackend(client, host_model, bounds=bounds)
    await server.stop(None)


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest.fixture
async def backend(triton: FakeTriton) -> AsyncIterator[TritonBackend]:
    async with serving(triton) as backend:
        yield backend


def text(array: Any) -> str:
    return str(array.ravel()[0].decode())


async def test_a_generation_is_translated_both_ways(backend: TritonBackend, triton: FakeTriton) -> None:
    sampling = Sampling(max_tokens=5, temperature=0.5, top_p=0.9, top_k=3, stop=("\n",), seed=9)
    answer = await backend.generate("m", "2+3=", sampling, truncate=True, timeout_seconds=LONGEST_WAIT_SECONDS)
    assert (answer.text, answer.finish_reason, answer.truncated) == ("five", FinishReason.LENGTH, True)
    assert (answer.prompt_tokens, answer.completion_tokens, answer.engine_seconds) == (11, 2, 0.25)
    assert text(triton.inputs[contract.TEXT_INPUT]) == "2+3="
    assert triton.inputs[contract.TRUNCATE_INPUT].item() is True
    assert json.loads(text(triton.inputs[contract.SAMPLING_PARAMETERS])) == {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["\n"],
        "seed": 9,
    }


async def test_greedy_is_said_explicitly(backend: TritonBackend, triton: FakeTriton) -> None:
    await backend.generate("m", "x", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    assert json.loads(text(triton.inputs[contract.SAMPLING_PARAMETERS])) == {"max_tokens": 256, "temperature": 0.0}
    assert contract.TRUNCATE_INPUT not in triton.inputs


async def test_a_scoring_is_translated_both_ways(backend: TritonBackend, triton: FakeTriton) -> None:
    triton.answer = SCORES
    context = (Turn("system", "s"), Turn("user", "u"))
    scores = await backend.score("m", context, ["a", "b"], truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    assert list(scores.scores) == [ContinuationScore(-1.5, True, 1), ContinuationScore(-2.5, False, 2)]
    assert (scores.prompt_tokens, scores.truncated, scores.engine_seconds) == (4, False, 0.0)
    assert json.loads(text(triton.inputs[contract.MESSAGES])) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
    ]
    assert [each.decode() for each in triton.inputs[contract.CONTINUATIONS]] == ["a", "b"]


async def test_everything_is_asked_of_the_host_that_the_checkpoint_lives_in(triton: FakeTriton) -> None:
    async with serving(triton, "another-host") as backend:
        await backend.generate("m-1", "hi", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
        pieces = backend.generate_pieces("m-1", "hi", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
        assert [each async for each in pieces]
        triton.answer = SCORES
        await backend.score("m-1", "hi", ["a", "b"], truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    assert triton.asked == ["another-host"] * 3


async def test_a_checkpoint_is_loaded_by_its_folder_in_its_dtype(backend: TritonBackend, triton: FakeTriton) -> None:
    await backend.load(Deployment("m", "/c/step-1", "bfloat16"), timeout_seconds=LONGEST_WAIT_SECONDS)
    assert triton.checkpoints["m"] == CausalLMArguments(model="/c/step-1", dtype="bfloat16")
    await backend.generate("m", "x", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    assert text(triton.inputs[CHECKPOINT]) == "m"


async def test_a_checkpoint_is_loaded_with_the_services_bounds(triton: FakeTriton) -> None:
    bounds = GenerationSettings(max_num_seqs=7, kv_cache_gib=3.5, prefix_cache_gib=0.25).engine_bounds
    async with serving(triton, bounds=bounds) as backend:
        await backend.load(Deployment("m", "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS)
    loaded = triton.checkpoints["m"]
    assert (loaded.max_num_seqs, loaded.kv_cache_gib, loaded.prefix_cache_gib) == (7, 3.5, 0.25)


async def test_checkpoints_share_one_host(backend: TritonBackend, triton: FakeTriton) -> None:
    assert await backend.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == frozenset()
    assert triton.starts == 0
    loads = (backend.load(Deployment(name, "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS) for name in "abc")
    await asyncio.gather(*loads)
    assert triton.starts == 1
    assert await backend.memory_bytes(timeout_seconds=LONGEST_WAIT_SECONDS) == 1 << 20
    await backend.unload("b", timeout_seconds=LONGEST_WAIT_SECONDS)
    assert await backend.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"a", "c"}


async def test_a_dead_host_is_started_again_once(backend: TritonBackend, triton: FakeTriton) -> None:
    await backend.load(Deployment("a", "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS)
    triton.is_crashed = True
    assert await backend.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == frozenset()
    await backend.unload("a", timeout_seconds=LONGEST_WAIT_SECONDS)
    await asyncio.gather(
        *(backend.load(Deployment(name, "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS) for name in "bc")
    )
    assert triton.starts == 2
    assert await backend.loaded_names(timeout_seconds=LONGEST_WAIT_SECONDS) == {"b", "c"}


@pytest.mark.parametrize(
    ("error", "is_crash"),
    [
        ("Request for unknown model: 'm' is not found", False),
        ("Request for unknown model: 'm' has no available versions", False),
        ("Failed to process the request(s), message: Stub process 'm_0' is not healthy.", True),
    ],
)
async def test_a_lost_model_is_told_from_a_bad_request(
    backend: TritonBackend, triton: FakeTriton, error: str, is_crash: bool
) -> None:
    triton.error = error
    with pytest.raises(ModelLostError) as caught:
        await backend.generate("m", "x", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    assert caught.value.engine_crashed is is_crash


async def test_a_wrong_key_names_the_setting(backend: TritonBackend, triton: FakeTriton) -> None:
    triton.error = "This protocol is restricted, expecting header 'triton-grpc-protocol-evalfleet-model-control'"
    with pytest.raises(ModelControlRefusedError, match="EVALFLEET_TRITON_KEY_FILE"):
        await backend.load(Deployment("m", "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS)


async def test_errors_of_the_request_keep_their_type(backend: TritonBackend, triton: FakeTriton) -> None:
    figures = {"prompt_tokens": "70", "context_tokens": "64"}
    triton.error = encode_failure(
        InferenceFailure("too long", reason="PROMPT_TOO_LONG", code="FAILED_PRECONDITION", metadata=figures)
    )
    calls: Sequence[Any] = (
        backend.generate("m", "x", Sampling(), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS),
        backend.score("m", "x", ["a"], truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS),
        backend.load(Deployment("m", "/c", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS),
    )
    for call in calls:
        with pytest.raises(FleetError) as caught:
            await call
        assert not isinstance(caught.value, ModelLostError)
        assert (caught.value.reason, caught.value.metadata) == ("PROMPT_TOO_LONG", figures)


async def test_a_server_that_is_away_is_a_loss(triton: FakeTriton) -> None:
    async with InferenceClient("127.0.0.1:1") as client:
        away = TritonBackend(client)
        assert not await away.is_ready()
        for call in (away.loaded_names(timeout_seconds=20), away.unload("m", timeout_seconds=20)):
            with pytest.raises(ModelLostError) as caught:
                await call
            assert caught.value.reason == "INFERENCE_UNAVAILABLE"

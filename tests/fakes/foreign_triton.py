"""A Triton of somebody else in this process: the gRPC methods that are used, with a model of the vLLM backend."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2, service_pb2_grpc
from tritonclient.grpc import service_pb2 as kserve

from services.inference.tensors import Array, read_request, text_array, write_response
from services.runtime.free_ports import free_port

MODEL = "llama"
_INPUTS = {
    **dict.fromkeys(("text_input", "sampling_parameters"), "TYPE_STRING"),
    **dict.fromkeys(("stream", "exclude_input_in_output", "return_finish_reason", "return_logprobs"), "TYPE_BOOL"),
    **dict.fromkeys(("return_num_input_tokens", "return_num_output_tokens"), "TYPE_BOOL"),
}
_OUTPUTS = {
    **dict.fromkeys(("text_output", "finish_reason", "logprobs"), "TYPE_STRING"),
    **dict.fromkeys(("num_input_tokens", "num_output_tokens"), "TYPE_UINT32"),
}


class FakeForeignTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient has no types
    """Answers ``five`` in one token; a test decides whether it is up, ready, slow, or sends something else.

    Args:
        tokenizer_folder: whose tokens it counts.
    """

    def __init__(self, tokenizer_folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
        self._server: grpc.aio.Server | None = None
        # Chosen once: a test may stop it and start it again.
        self.port = free_port("127.0.0.1")
        self.is_ready = True
        self.model_name = MODEL
        self.gate: asyncio.Event | None = None
        self.requests: list[Mapping[str, Array]] = []
        self.left = asyncio.Event()
        self.messages: Callable[[dict[str, Array]], list[dict[str, Array] | str]] = lambda answer: [answer]
        self.is_final = True

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling parameters of the last request."""
        told: dict[str, Any] = json.loads(self.requests[-1]["sampling_parameters"][0])
        return told

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.target)
        await self._server.start()

    async def stop(self) -> None:
        """Go away in the middle of whatever happens."""
        if self._server is not None:
            await self._server.stop(None)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        await self._check_name(request.name, context)
        config = model_config_pb2.ModelConfig(name=MODEL)
        for tensors, types in ((config.input, _INPUTS), (config.output, _OUTPUTS)):
            for name, kind in types.items():
                tensors.add(name=name, data_type=kind, dims=[1])
        config.model_transaction_policy.decoupled = True
        return kserve.ModelConfigResponse(config=config)

    async def _check_name(self, name: str, context: Any) -> None:
        if name != self.model_name:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return kserve.ModelReadyResponse(ready=self.is_ready)

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async for request in request_iterator:
            await self._check_name(request.model_name, context)
            inputs = read_request(request)
            self.requests.append(inputs)
            if self.gate is not None:
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.left.set()
                    raise
            answer = {
                "text_output": text_array("five"),
                "finish_reason": text_array("stop"),
                "num_input_tokens": np.asarray(len(self._encode(inputs)), np.uint32),
                "num_output_tokens": np.array([1], np.uint32),
            }
            for message in self.messages(answer):
                if isinstance(message, str):
                    yield kserve.ModelStreamInferResponse(error_message=message)
                    continue
                yield kserve.ModelStreamInferResponse(infer_response=write_response(MODEL, request.id, message))
            end = kserve.ModelInferResponse(model_name=MODEL, id=request.id)
            end.parameters["triton_final_response"].bool_param = self.is_final
            yield kserve.ModelStreamInferResponse(infer_response=end)

    def _encode(self, inputs: Mapping[str, Array]) -> list[int]:
        with suppress(UnicodeDecodeError):
            ids: list[int] = self._tokenizer.encode(inputs["text_input"][0].decode()).ids
            return ids
        return []

"""A fake inference server: Triton's gRPC protocol, and a checkpoint host whose model answers everything at once.

It stands in for Triton so that what is measured is the host's path and no model's. The generation service sees no
difference: it loads the checkpoint, and streams requests that are answered by their ids, each in one message with
Triton's mark of the final response.

    python -m benchmarks.overhead.instant_triton --ready-file FILE [--servers 8]
"""

import argparse
import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from benchmarks.overhead.workload import ANSWER
from services.inference import contract
from services.inference.host_contract import OPERATION, REPORT, HostReport
from services.inference.tensors import text_array, write_response
from services.runtime.entry import event_loop_factory

_MEMORY_BYTES = 64 << 30


class InstantTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient has no types
    """Serves the methods that the generation service calls."""

    def __init__(self) -> None:
        self._models: set[str] = set()
        self._checkpoints: set[str] = set()
        self._answer = kserve.ModelStreamInferResponse(
            infer_response=write_response(
                "",
                "",
                {
                    contract.TEXT_OUTPUT: text_array(ANSWER),
                    contract.FINISH_REASON: text_array("stop"),
                    contract.NUM_INPUT_TOKENS: np.array([12], np.uint32),
                    contract.NUM_OUTPUT_TOKENS: np.array([1], np.uint32),
                    contract.ENGINE_SECONDS: np.array([0.0], np.float64),
                },
            )
        )
        self._answer.infer_response.parameters["triton_final_response"].bool_param = True

    async def ServerReady(self, request: Any, context: Any) -> Any:
        """Answer that requests are taken."""
        return kserve.ServerReadyResponse(ready=True)

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Note that a model is loaded."""
        self._models.add(request.model_name)
        return kserve.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Forget a model."""
        self._models.discard(request.model_name)
        return kserve.RepositoryModelUnloadResponse()

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """List the models."""
        index = kserve.RepositoryIndexResponse()
        for name in sorted(self._models):
            index.models.add(name=name, version="1", state="READY")
        return index

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        """List the models that take requests."""
        statistics = kserve.ModelStatisticsResponse()
        for name in sorted(self._models):
            statistics.model_stats.add(name=name, version="1")
        return statistics

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer every request of a stream at once."""
        async for request in request_iterator:
            if any(tensor.name == OPERATION for tensor in request.inputs):
                yield self._operate(request)
                continue
            # Written into its bytes before the next request is read, so that one message serves all.
            self._answer.infer_response.id = request.id
            yield self._answer

    def _operate(self, request: Any) -> Any:
        names = [tensor.name for tensor in request.inputs]
        # A text is written behind its length in four bytes.
        operation = json.loads(request.raw_input_contents[names.index(OPERATION)][4:])
        if operation["kind"] == "load":
            self._checkpoints.add(operation["name"])
        elif operation["kind"] == "unload":
            self._checkpoints.discard(operation["name"])
        report = HostReport(tuple(sorted(self._checkpoints)), _MEMORY_BYTES).to_json()
        response = write_response(request.model_name, request.id, {REPORT: text_array(report)})
        response.parameters["triton_final_response"].bool_param = True
        return kserve.ModelStreamInferResponse(infer_response=response)


async def serve(ready_file: Path, servers: int) -> None:
    """Serve on free ports until SIGTERM, or until the process that started this one has ended."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    watching = asyncio.create_task(_end_with_parent(os.getppid(), stopped))
    started = [await _start() for _ in range(servers)]
    addresses = ",".join(address for _, address in started)
    await asyncio.to_thread(ready_file.write_text, addresses, encoding="utf-8")
    await stopped.wait()
    watching.cancel()
    await asyncio.gather(*(server.stop(1.0) for server, _ in started))


async def _start() -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(InstantTriton(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def _end_with_parent(parent: int, stopped: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - the end of another process sends no events
        await asyncio.sleep(1.0)
    stopped.set()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ready-file", type=Path, required=True, help="receives host:port, of each server")
    parser.add_argument("--servers", type=int, default=1, help="how many there seem to be")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        runner.run(serve(options.ready_file, options.servers))


if __name__ == "__main__":
    main()

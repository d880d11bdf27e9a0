"""A fake inference server that answers at once, says that each prompt costs something else, and keeps the account.

It stands in for Triton so that hundreds of runs take seconds; the services see no difference. A prompt costs the same
whoever asks it. What each checkpoint has answered is written to a file at the end, so that an account other than the
services' own says what was spent.

    python -m benchmarks.budgets.costly_triton --ready-file FILE --account-file FILE
"""

import argparse
import asyncio
import json
import random
import signal
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from benchmarks.overhead.instant_triton import InstantTriton
from benchmarks.overhead.workload import ANSWER
from services.inference import contract
from services.inference.host_contract import CHECKPOINT, OPERATION, parse_operation
from services.inference.tensors import text_array, write_response

_MEAN_PROMPT_TOKENS: Final = 60.0
_MOST_PROMPT_TOKENS: Final = 600
_MOST_ANSWER_TOKENS: Final = 16
_MEAN_ENGINE_SECONDS: Final = 0.2
_MOST_ENGINE_SECONDS: Final = 2.0
_HELD_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class AnswerCost:
    """What one answer costs."""

    prompt_tokens: int
    answer_tokens: int
    engine_seconds: float


DEAREST: Final = AnswerCost(_MOST_PROMPT_TOKENS, _MOST_ANSWER_TOKENS, _MOST_ENGINE_SECONDS)
"""No answer costs more."""


def cost_of(prompt: bytes) -> AnswerCost:
    """What the answer to a prompt costs: one in a dozen costs several times the mean."""
    chance = random.Random(zlib.crc32(prompt))
    return AnswerCost(
        min(_MOST_PROMPT_TOKENS, 1 + int(chance.expovariate(1 / _MEAN_PROMPT_TOKENS))),
        chance.randint(1, _MOST_ANSWER_TOKENS),
        min(_MOST_ENGINE_SECONDS, chance.expovariate(1 / _MEAN_ENGINE_SECONDS)),
    )


class CostlyTriton(InstantTriton):
    """Serves the methods that the generation service calls.

    Args:
        answer_seconds: how long an answer takes; those of a stream come one after another.
        limits_file: JSON that may come and change at any time: by the name of a checkpoint's folder, after how many
            answers others wait; those that are not in it have no limit.

    Attributes:
        account: by the name of a checkpoint's folder: answers, tokens, engine seconds.
    """

    def __init__(self, answer_seconds: float = 0.0, limits_file: Path | None = None) -> None:
        super().__init__()
        self._answer_seconds = answer_seconds
        self._limits_file = limits_file
        self.account: dict[str, list[float]] = {}
        self._folders: dict[bytes, str] = {}

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer every request of a stream in its turn."""
        async for request in request_iterator:
            tensors = {
                tensor.name: raw[4:]
                for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
                if tensor.datatype == "BYTES"
            }
            if OPERATION in tensors:
                operation = parse_operation(tensors[OPERATION].decode())
                if operation.arguments is not None:
                    self._folders[operation.name.encode()] = Path(operation.arguments.model).name
                yield self._operate(request)
            else:
                if self._answer_seconds:
                    await asyncio.sleep(self._answer_seconds)
                while self._is_held(self._folders[tensors[CHECKPOINT]]):  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(_HELD_SECONDS)
                yield self._answer_to(request.id, tensors)

    def _is_held(self, folder: str) -> bool:
        if self._limits_file is None or not self._limits_file.exists():
            return False
        limit: int | None = json.loads(self._limits_file.read_text(encoding="utf-8")).get(folder)
        return limit is not None and self.account.get(folder, [0])[0] >= limit

    def _answer_to(self, request_id: str, tensors: dict[str, bytes]) -> Any:
        cost = cost_of(tensors[contract.TEXT_INPUT])
        spent = self.account.setdefault(self._folders[tensors[CHECKPOINT]], [0, 0, 0.0])
        for index, value in enumerate((1, cost.prompt_tokens + cost.answer_tokens, cost.engine_seconds)):
            spent[index] += value
        outputs = {
            contract.TEXT_OUTPUT: text_array(ANSWER),
            contract.FINISH_REASON: text_array("stop"),
            contract.NUM_INPUT_TOKENS: np.array([cost.prompt_tokens], np.uint32),
            contract.NUM_OUTPUT_TOKENS: np.array([cost.answer_tokens], np.uint32),
            contract.ENGINE_SECONDS: np.array([cost.engine_seconds], np.float64),
        }
        response = write_response("", request_id, outputs)
        response.parameters["triton_final_response"].bool_param = True
        return kserve.ModelStreamInferResponse(infer_response=response)


async def serve(ready_file: Path, account_file: Path, answer_seconds: float, limits_file: Path | None) -> None:
    """Serve on a free port until SIGTERM, then write the account."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    triton = CostlyTriton(answer_seconds, limits_file)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(ready_file.write_text, f"127.0.0.1:{port}", encoding="utf-8")
    await stopped.wait()
    await server.stop(1.0)
    await asyncio.to_thread(account_file.write_text, json.dumps(triton.account), encoding="utf-8")


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ready-file", type=Path, required=True, help="receives host:port")
    parser.add_argument("--account-file", type=Path, required=True, help="receives what each checkpoint has answered")
    parser.add_argument("--answer-seconds", type=float, default=0.0, help="how long an answer takes")
    parser.add_argument("--limits-file", type=Path, help="says after how many answers a checkpoint's others wait")
    options = parser.parse_args()
    asyncio.run(serve(options.ready_file, options.account_file, options.answer_seconds, options.limits_file))


if __name__ == "__main__":
    main()

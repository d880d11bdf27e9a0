"""A fake of the generation service: answers by a function, after the refusals that a test puts in."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

import grpc
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2_grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from services.runtime.free_ports import free_port
from tests.fakes.model_service import FakeModels
from tests.fakes.refusing import not_offered


def refusal(code: grpc.StatusCode, message: str = "not now", *, retry_seconds: float = 0) -> status_pb2.Status:
    """A status as the service sends it, with the time after which to come back."""
    status = status_pb2.Status(code=code.value[0], message=message)
    if retry_seconds:
        packed = any_pb2.Any()
        delay = Duration()
        delay.FromNanoseconds(int(retry_seconds * 1e9))
        packed.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status.details.append(packed)
    return status


class FakeGeneration(generation_pb2_grpc.GenerationServiceServicer):
    """Says back the prompt, numbered by sample; scores a continuation with minus its length.

    Attributes:
        generated: requests to generate that were answered or refused, in order.
        scored: likewise, to score.
        refusals: what the next calls or items of streams end with.
    """

    def __init__(self) -> None:
        self.generated: list[generation_pb2.GenerateRequest] = []
        self.scored: list[generation_pb2.ScoreContinuationsRequest] = []
        self.refusals: deque[status_pb2.Status] = deque()
        self._lock = threading.Lock()

    def Generate(
        self, request: generation_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> generation_pb2.GenerateResponse:
        self.generated.append(request)
        if refused := self._refusal():
            context.abort_with_status(rpc_status.to_status(refused))
        return self._answer(request)

    def StreamGenerate(
        self, request_iterator: Iterator[generation_pb2.StreamGenerateRequest], context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.StreamGenerateResponse]:
        for each in request_iterator:
            self.generated.append(each.request)
            if refused := self._refusal():
                yield generation_pb2.StreamGenerateResponse(item_id=each.item_id, status=refused)
            else:
                yield generation_pb2.StreamGenerateResponse(item_id=each.item_id, response=self._answer(each.request))

    def StreamScoreContinuations(
        self, request_iterator: Iterator[generation_pb2.StreamScoreContinuationsRequest], context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.StreamScoreContinuationsResponse]:
        for each in request_iterator:
            self.scored.append(each.request)
            scores = [
                generation_pb2.ContinuationScore(log_likelihood=-len(text), is_greedy=len(text) == 1, token_count=1)
                for text in each.request.continuations
            ]
            yield generation_pb2.StreamScoreContinuationsResponse(
                item_id=each.item_id, response=generation_pb2.ScoreContinuationsResponse(scores=scores)
            )

    def BatchGenerate(
        self, request: generation_pb2.BatchGenerateRequest, context: grpc.ServicerContext
    ) -> generation_pb2.BatchGenerateResponse:
        not_offered(context)

    def GenerateTokens(
        self, request: generation_pb2.GenerateTokensRequest, context: grpc.ServicerContext
    ) -> Iterator[generation_pb2.GenerateTokensResponse]:
        not_offered(context)

    def ScoreContinuations(
        self, request: generation_pb2.ScoreContinuationsRequest, context: grpc.ServicerContext
    ) -> generation_pb2.ScoreContinuationsResponse:
        not_offered(context)

    def ListCallerUsage(
        self, request: generation_pb2.ListCallerUsageRequest, context: grpc.ServicerContext
    ) -> generation_pb2.ListCallerUsageResponse:
        not_offered(context)

    def _refusal(self) -> status_pb2.Status | None:
        with self._lock:
            return self.refusals.popleft() if self.refusals else None

    def _answer(self, request: generation_pb2.GenerateRequest) -> generation_pb2.GenerateResponse:
        asked = request.prompt or request.conversation.messages[-1].content
        return generation_pb2.GenerateResponse(
            completions=[
                generation_pb2.Completion(
                    text=f"{asked}#{number}", finish_reason=generation_pb2.FINISH_REASON_LENGTH, token_count=2
                )
                for number in range(request.sample_count or 1)
            ],
            usage=common_pb2.Usage(prompt_tokens=5, completion_tokens=2),
            model_digest="ab" * 32,
        )


class GenerationServer(AbstractContextManager["GenerationServer"]):
    """A generation service on a loopback port, with one model, `step-100`.

    Attributes:
        target: its address.
        service: the fake behind it.
    """

    def __init__(self) -> None:
        self.service = FakeGeneration()
        self.models = FakeModels()
        self.models.put("step-100")
        self.target = f"127.0.0.1:{free_port('127.0.0.1')}"
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8), options=[("grpc.so_reuseport", 0)])
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self.service, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.models, self._server)
        self._server.add_insecure_port(self.target)

    def __enter__(self) -> "GenerationServer":
        self._server.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(grace=None).wait()

"""Whoever leaves before its answer is there pays for what was computed until then, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire_backend
from services.runtime.errors import FailedPreconditionError, from_rpc_error, from_status
from services.runtime.security.caller_keys import new_key
from services.runtime.testing import serve_in_process
from services.runtime.usage import usage_of
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS

PROMPT = "p" * 120
LEAST_TOKENS = 20
"""What a request with this prompt costs at least: the fake engine counts 120."""
BULK_TOKENS = 300
"""A day's of a caller who may have one answer, and not what two more cost at least."""
GENERATE = generation_pb2.GenerateRequest(model="models/m", prompt=PROMPT)
SCORE = generation_pb2.ScoreContinuationsRequest(model="models/m", prompt=PROMPT, continuations=["a", "bc"])


class Service:
    """A generation service as one of its callers sees it, whom every token of a day is one too many."""

    def __init__(self, channel: grpc.aio.Channel, keys: dict[str, str]) -> None:
        self.stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self.metadata = {name: (("authorization", f"Bearer {key}"),) for name, key in keys.items()}
        self.team = self.metadata["team"]

    async def usage_of(self, caller: str) -> generation_pb2.CallerUsage | None:
        """What a caller has cost; None: it has had nothing."""
        listed = await self.stub.ListCallerUsage(
            generation_pb2.ListCallerUsageRequest(), metadata=self.metadata["auditor"], timeout=LONGEST_WAIT_SECONDS
        )
        return next((each for each in listed.callers if each.caller == caller), None)

    async def booked(self, caller: str = "team", *, tokens: int) -> common_pb2.Usage:
        """Wait until a caller has been booked so many tokens, and return all that it was booked."""
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            while True:
                found = await self.usage_of(caller)
                if found is not None and _computed(found.usage) >= tokens:
                    return found.usage
                await asyncio.sleep(0.01)

    async def refusal(self, caller: str = "team") -> str:
        """Why a caller may not ask any more."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.stub.Generate(GENERATE, metadata=self.metadata[caller], timeout=LONGEST_WAIT_SECONDS)
        return from_rpc_error(caught.value).reason


class StopsAfter(asyncio.Event):
    """Lets so many pieces through."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._left = count

    async def wait(self) -> Literal[True]:
        self._left -= 1
        return True if self._left > 0 else await super().wait()


@pytest.fixture
async def service(tmp_path: Path, backend: FakeInferenceBackend) -> AsyncIterator[Service]:
    checkpoint = write_checkpoint(tmp_path / "checkpoints" / "m", max_position_embeddings=4096)
    keys = {name: new_key() for name in ("team", "bulk", "other", "auditor")}
    callers = [
        f'[callers.{name}]\nroles = ["evaluate", "read", "administer"]\nsha256 = ["{digest}"]'
        for name, (_, digest) in keys.items()
    ]
    (tmp_path / "keys.toml").write_text("\n".join(callers))
    (tmp_path / "quotas.toml").write_text(
        f"[callers.team]\ntokens_per_day = 1\n[callers.bulk]\ntokens_per_day = {BULK_TOKENS}\n"
    )
    settings = GenerationSettings(
        port=0,
        state_dir=tmp_path / "state",
        checkpoint_roots=str(tmp_path / "checkpoints"),
        max_engine_requests_per_call=2,
        caller_keys=tmp_path / "keys.toml",
        caller_quotas=tmp_path / "quotas.toml",
        audit_file=tmp_path / "audit.jsonl",
    )
    async with (
        wire_backend(settings, CollectorRegistry(), backend) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        service = Service(channel, {name: key for name, (key, _) in keys.items()})
        request = model_pb2.CreateModelRequest(model_id="m", checkpoint_path=str(checkpoint))
        await model_pb2_grpc.ModelServiceStub(channel).CreateModel(request, metadata=service.metadata["auditor"])
        yield service


async def test_pieces_are_paid_for_as_they_come(service: Service, backend: FakeInferenceBackend) -> None:
    backend.piece_gate = StopsAfter(3)
    request = generation_pb2.GenerateTokensRequest(request=GENERATE)
    call = service.stub.GenerateTokens(request, metadata=service.team)
    pieces = [await call.read() for _ in range(3)]
    call.cancel()
    usage = await service.booked(tokens=1)
    assert (usage.prompt_tokens, usage.computed_prompt_tokens) == (120, 120)
    assert usage.computed_completion_tokens == sum(each.piece.token_count for each in pieces) == 3
    assert await service.refusal() == "CALLER_QUOTA_EXHAUSTED"


async def test_an_answer_that_was_read_to_its_end_is_paid_for_once(
    service: Service, backend: FakeInferenceBackend
) -> None:
    request = generation_pb2.GenerateTokensRequest(request=GENERATE)
    call = service.stub.GenerateTokens(request, metadata=service.team)
    *_, last = [each async for each in call]
    found = await service.usage_of("team")
    assert found is not None
    assert (found.request_count, found.usage) == (1, last.response.usage)
    assert await service.refusal() == "CALLER_QUOTA_EXHAUSTED"


@pytest.mark.parametrize(("method", "request_"), [("Generate", GENERATE), ("ScoreContinuations", SCORE)])
async def test_a_cancelled_call_is_paid_for_at_its_least(
    method: str, request_: Any, service: Service, backend: FakeInferenceBackend
) -> None:
    backend.gate = asyncio.Event()
    call = getattr(service.stub, method)(request_, metadata=service.team)
    answer = asyncio.ensure_future(call)
    await backend.until(lambda: backend.in_flight == 1)
    answer.cancel()
    usage = await service.booked(tokens=1)
    assert (usage.prompt_tokens, usage.computed_prompt_tokens) == (LEAST_TOKENS, LEAST_TOKENS)
    assert usage.computed_completion_tokens == 0
    assert await service.refusal() == "CALLER_QUOTA_EXHAUSTED"
    backend.gate = None
    waited = await getattr(service.stub, method)(request_, metadata=service.metadata["other"])
    assert _computed(usage) <= _computed(waited.usage)


async def test_what_a_deadline_cuts_off_is_paid_for(service: Service, backend: FakeInferenceBackend) -> None:
    backend.gate = asyncio.Event()
    # A busy machine may not get as far as the engine in a short time.
    for seconds in GROWING_SECONDS:
        with suppress(grpc.aio.AioRpcError):
            await service.stub.Generate(GENERATE, metadata=service.team, timeout=seconds)
        if backend.asked.is_set():
            break
    usage = await service.booked(tokens=1)
    assert usage.computed_prompt_tokens == LEAST_TOKENS
    assert await service.refusal() == "CALLER_QUOTA_EXHAUSTED"


async def test_a_cancelled_stream_pays_for_answers_and_for_items_in_flight(
    service: Service, backend: FakeInferenceBackend
) -> None:
    def item(prompt: str) -> generation_pb2.StreamGenerateRequest:
        request = generation_pb2.GenerateRequest(model="models/m", prompt=prompt)
        return generation_pb2.StreamGenerateRequest(item_id=prompt[0], request=request)

    call = service.stub.StreamGenerate(metadata=service.metadata["bulk"])
    await call.write(item("a" * 120))
    answered = await call.read()
    backend.gate = asyncio.Event()
    for letter in "bcd":
        await call.write(item(letter * 120))
    # Two places a call: the last item waits, and costs nothing.
    await backend.until(lambda: backend.in_flight == 2)
    call.cancel()
    at_least = _computed(answered.response.usage) + 2 * LEAST_TOKENS
    assert _computed(await service.booked("bulk", tokens=at_least)) == at_least
    found = await service.usage_of("bulk")
    assert found is not None
    assert found.request_count == 3
    assert _computed(answered.response.usage) < BULK_TOKENS <= at_least
    assert await service.refusal("bulk") == "CALLER_QUOTA_EXHAUSTED"


async def test_a_cancelled_batch_pays_for_what_was_answered(service: Service, backend: FakeInferenceBackend) -> None:
    requests = [generation_pb2.GenerateRequest(model="models/m", prompt=each * 120) for each in "ab"]
    backend.held = {"b" * 120}
    batch = generation_pb2.BatchGenerateRequest(requests=requests)
    answer = asyncio.ensure_future(service.stub.BatchGenerate(batch, metadata=service.team))
    await backend.until(lambda: backend.answered == 1 and backend.in_flight == 1)
    answer.cancel()
    usage = await service.booked(tokens=120 + LEAST_TOKENS)
    assert usage.computed_prompt_tokens == 120 + LEAST_TOKENS
    assert usage.computed_completion_tokens > 0


async def test_a_batch_says_what_was_computed_for_what_came_too_late(
    service: Service, backend: FakeInferenceBackend
) -> None:
    backend.held = {PROMPT}
    batch = generation_pb2.BatchGenerateRequest(requests=[GENERATE])
    # A busy machine may not get as far as the engine in a short time.
    for seconds in GROWING_SECONDS:
        with suppress(grpc.aio.AioRpcError):
            answer = await service.stub.BatchGenerate(batch, metadata=service.metadata["other"], timeout=seconds)
            if backend.asked.is_set():
                break
    error = from_status(answer.results[0].status)
    assert (error.code, usage_of(error).computed_prompt_tokens) == (grpc.StatusCode.DEADLINE_EXCEEDED, LEAST_TOKENS)
    usage = await service.booked("other", tokens=LEAST_TOKENS)
    assert usage.computed_prompt_tokens % LEAST_TOKENS == 0


async def test_what_the_engine_refuses_costs_nothing(service: Service, backend: FakeInferenceBackend) -> None:
    backend.failures[PROMPT] = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")
    for _ in range(2):
        assert await service.refusal() == "PROMPT_TOO_LONG"
    assert await service.usage_of("team") is None


def _computed(usage: common_pb2.Usage) -> int:
    return usage.computed_prompt_tokens + usage.computed_completion_tokens

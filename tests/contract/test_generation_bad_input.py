"""Every bad input is a typed error of its own item, through every method, and its neighbours are answered."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire_backend
from services.runtime.errors import (
    FailedPreconditionError,
    FleetError,
    InvalidArgumentError,
    from_rpc_error,
    from_status,
)
from services.runtime.testing import serve_in_process
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint

INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION


@dataclass(frozen=True)
class Bad:
    """What is put into an otherwise good request, and the error that it must end in."""

    name: str
    fields: dict[str, Any]
    violations: tuple[str, ...] = ()
    reason: str = "INVALID_REQUEST"
    code: grpc.StatusCode = INVALID
    of_generation: bool = True
    of_scoring: bool = True
    engine_error: FleetError | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.name


def turns(*pairs: tuple[int, str]) -> dict[str, Any]:
    return {"conversation": {"messages": [{"role": role, "content": content} for role, content in pairs]}}


def sampling(name: str, **fields: Any) -> Bad:
    [key] = fields
    path = f"sampling.{key}" + ("[0]" if name.startswith("stop string") else "")
    return Bad(name, {"sampling": fields}, (path,), of_scoring=False)


CONTEXT_FIGURES = {"prompt_tokens": "70", "context_tokens": "64"}
BAD_INPUTS = [
    Bad("empty prompt", {"prompt": ""}, ("prompt",), of_scoring=False),
    Bad("no prompt", {"prompt": None}, ("prompt",)),
    Bad("NUL in the prompt", {"prompt": "a\0b"}, ("prompt",)),
    Bad("NUL in a turn", turns((2, "a\0")), ("conversation.messages[0].content",)),
    Bad("no turns", {"conversation": {}}, ("conversation.messages",)),
    Bad("no role", turns((0, "a")), ("conversation.messages[0].role",)),
    Bad("unknown role", turns((17, "a")), ("conversation.messages[0].role",)),
    Bad("system turn in the middle", turns((2, "a"), (1, "b")), ("conversation.messages[1].role",)),
    Bad("empty turn", turns((2, "")), ("conversation.messages[0].content",)),
    Bad("no model", {"model": ""}, ("model",)),
    Bad("model of another form", {"model": "m"}, ("model",)),
    Bad("unknown truncation", {"truncation": 9}, ("truncation",)),
    Bad("unknown priority", {"priority": 9}, ("priority",)),
    sampling("zero max_tokens", max_tokens=0),
    sampling("negative max_tokens", max_tokens=-1),
    sampling("absurd max_tokens", max_tokens=2_000_000_000),
    sampling("negative temperature", temperature=-0.1),
    sampling("temperature that is no number", temperature=float("nan")),
    sampling("infinite temperature", temperature=float("inf")),
    sampling("zero top_p", top_p=0.0),
    sampling("negative top_k", top_k=-1),
    sampling("too many stop strings", stop=["x"] * 17),
    sampling("stop string that is empty", stop=[""]),
    sampling("stop string with NUL", stop=["\0"]),
    Bad("zero samples", {"sample_count": 0}, ("sample_count",), of_scoring=False),
    Bad("greedy samples", {"sample_count": 2}, ("sample_count",), of_scoring=False),
    Bad("no continuations", {"continuations": []}, ("continuations",), of_generation=False),
    Bad("empty continuation", {"continuations": ["a", ""]}, ("continuations[1]",), of_generation=False),
    Bad("NUL in a continuation", {"continuations": ["\0"]}, ("continuations[0]",), of_generation=False),
    Bad("too many continuations", {"continuations": ["a"] * 257}, ("continuations",), of_generation=False),
    Bad("unknown model", {"model": "models/absent"}, reason="MODEL_NOT_FOUND", code=grpc.StatusCode.NOT_FOUND),
    Bad(
        "prompt over the context",
        {"prompt": "long"},
        reason="PROMPT_TOO_LONG",
        code=FAILED,
        engine_error=FailedPreconditionError("too long", reason="PROMPT_TOO_LONG", metadata=CONTEXT_FIGURES),
    ),
    Bad(
        "roles that the template rejects",
        {"prompt": "roles"},
        reason="CHAT_TEMPLATE_REJECTED",
        engine_error=InvalidArgumentError("roles must alternate", reason="CHAT_TEMPLATE_REJECTED"),
    ),
    Bad(
        "continuation without tokens",
        {"prompt": "nothing"},
        reason="CONTINUATION_EMPTY",
        of_generation=False,
        engine_error=InvalidArgumentError("adds no token", reason="CONTINUATION_EMPTY"),
    ),
]


@pytest.fixture
async def generation(tmp_path: Path) -> AsyncIterator[Any]:
    backend = FakeInferenceBackend()
    for bad in BAD_INPUTS:
        if bad.engine_error is not None:
            backend.failures[bad.fields["prompt"]] = bad.engine_error
    checkpoint = write_checkpoint(tmp_path / "checkpoints" / "m")
    settings = GenerationSettings(
        port=0, state_dir=tmp_path / "state", checkpoint_roots=str(tmp_path / "checkpoints"), create_wait_seconds=60.0
    )
    async with (
        wire_backend(settings, CollectorRegistry(), backend) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        models = model_pb2_grpc.ModelServiceStub(channel)
        await models.CreateModel(model_pb2.CreateModelRequest(model_id="m", checkpoint_path=str(checkpoint)))
        yield generation_pb2_grpc.GenerationServiceStub(channel)


def to_generate(bad: Bad | None, number: int = 0) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(**_fields({"model": "models/m", "prompt": f"good {number}"}, bad))


def to_score(bad: Bad | None, number: int = 0) -> generation_pb2.ScoreContinuationsRequest:
    good = {"model": "models/m", "prompt": f"good {number}", "continuations": ["a", "b"]}
    return generation_pb2.ScoreContinuationsRequest(**_fields(good, bad))


def _fields(good: dict[str, Any], bad: Bad | None) -> dict[str, Any]:
    merged = good | (bad.fields if bad else {})
    if "conversation" in merged:
        del merged["prompt"]
    return {name: value for name, value in merged.items() if value is not None}


async def generate(stub: Any, bad: Bad) -> FleetError:
    return await _failure(stub.Generate(to_generate(bad)))


async def generate_tokens(stub: Any, bad: Bad) -> FleetError:
    call = stub.GenerateTokens(generation_pb2.GenerateTokensRequest(request=to_generate(bad)))
    return await _failure(anext(aiter(call)))


async def batch_generate(stub: Any, bad: Bad) -> FleetError:
    requests = [to_generate(None, 1), to_generate(bad), to_generate(None, 2)]
    first, middle, last = (await stub.BatchGenerate(generation_pb2.BatchGenerateRequest(requests=requests))).results
    assert first.HasField("response")
    assert last.HasField("response")
    return from_status(middle.status)


async def stream_generate(stub: Any, bad: Bad) -> FleetError:
    each = {"1": to_generate(None, 1), "bad": to_generate(bad), "2": to_generate(None, 2)}
    items = [generation_pb2.StreamGenerateRequest(item_id=key, request=request) for key, request in each.items()]
    return await _stream_failure(stub.StreamGenerate(iter(items)))


async def score(stub: Any, bad: Bad) -> FleetError:
    return await _failure(stub.ScoreContinuations(to_score(bad)))


async def stream_score(stub: Any, bad: Bad) -> FleetError:
    each = {"1": to_score(None, 1), "bad": to_score(bad), "2": to_score(None, 2)}
    items = [
        generation_pb2.StreamScoreContinuationsRequest(item_id=key, request=request) for key, request in each.items()
    ]
    return await _stream_failure(stub.StreamScoreContinuations(iter(items)))


async def _failure(call: Any) -> FleetError:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def _stream_failure(call: Any) -> FleetError:
    outcomes = {outcome.item_id: outcome async for outcome in call}
    assert {key: each.HasField("response") for key, each in outcomes.items()} == {"1": True, "bad": False, "2": True}
    return from_status(outcomes["bad"].status)


CASES = [
    *(
        (method, bad)
        for method in (generate, generate_tokens, batch_generate, stream_generate)
        for bad in BAD_INPUTS
        if bad.of_generation
    ),
    *((method, bad) for method in (score, stream_score) for bad in BAD_INPUTS if bad.of_scoring),
]


@pytest.mark.parametrize(("method", "bad"), CASES, ids=[f"{method.__name__}-{bad}" for method, bad in CASES])
async def test_a_bad_input_is_a_typed_error_and_harms_no_neighbour(
    generation: Any, method: Callable[[Any, Bad], Any], bad: Bad
) -> None:
    error: FleetError = await method(generation, bad)
    assert (error.code, error.reason) == (bad.code, bad.reason)
    assert {violation.field for violation in error.field_violations} == set(bad.violations)
    assert error.message
    if bad.engine_error is not None:
        assert error.metadata == bad.engine_error.metadata

"""Models of a foreign Triton through the real generation service and a real Triton.

What answers are contract fakes (tests/contract_fakes): the real vLLM backend and TensorRT-LLM do not run here.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire
from services.inference.client import InferenceClient
from services.runtime.errors import FleetError, from_rpc_error
from services.runtime.free_ports import free_port
from services.runtime.testing import serve_in_process
from tests.conftest import InferenceHost
from tests.contract_fakes.entries import tensorrt_llm_entry, vllm_backend_entry
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

VLLM = model_pb2.FOREIGN_PROTOCOL_VLLM_BACKEND
TENSORRT = model_pb2.FOREIGN_PROTOCOL_TENSORRT_LLM
MODEL_NAMES: dict[int, str] = {VLLM: "fake-vllm-backend", TENSORRT: "fake-tensorrt-llm"}
ENGINES: dict[int, str] = {VLLM: "vllm_backend", TENSORRT: "tensorrt_llm"}
BLS_NAME = "fake-tensorrt-llm-bls"
OLD_NAME = "fake-old-vllm-backend"
PROMPT = "What is 2 + 3?"
CALL_SECONDS = 120.0
USER = common_pb2.Conversation(messages=[common_pb2.Message(role=common_pb2.ROLE_USER, content="Which planet?")])


@pytest.fixture(scope="module")
def cancel_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("fakes") / "cancelled"
    log.touch()
    return log


@pytest.fixture(scope="module")
def foreign_triton(triton: InferenceHost, tiny_checkpoint: Path, cancel_log: Path) -> InferenceHost:
    """The Triton of somebody else: a server of ours into which that somebody loaded the fakes."""
    tokenizer_file = tiny_checkpoint / "tokenizer.json"

    async def load() -> None:
        async with InferenceClient(triton.target, model_control_key=triton.key) as client:
            entries = {
                MODEL_NAMES[VLLM]: vllm_backend_entry(tokenizer_file, cancel_log),
                MODEL_NAMES[TENSORRT]: tensorrt_llm_entry(tokenizer_file),
                OLD_NAME: vllm_backend_entry(tokenizer_file, cancel_log, is_new=False),
                BLS_NAME: tensorrt_llm_entry(tokenizer_file, is_decoupled=True),
            }
            await asyncio.gather(
                *(client.load_model(name, entry, timeout_seconds=CALL_SECONDS) for name, entry in entries.items())
            )

    asyncio.run(load())
    return triton


class Service:
    """A running generation service, and what registers foreign models at it."""

    def __init__(self, channel: grpc.aio.Channel, target: str, tokenizer: Path) -> None:
        self.models: Any = model_pb2_grpc.ModelServiceStub(channel)
        self.generation: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        self.target = target
        self.tokenizer = tokenizer

    async def register(self, protocol: int, **changes: Any) -> model_pb2.Model:
        told: dict[str, Any] = {
            "target": self.target,
            "model_name": MODEL_NAMES[protocol],
            "protocol": protocol,
            "revision": "weights-1",
        }
        foreign = model_pb2.ForeignTriton(**told | changes)
        request = model_pb2.CreateModelRequest(checkpoint_path=str(self.tokenizer), foreign=foreign)
        model: model_pb2.Model = (await self.models.CreateModel(request, timeout=CALL_SECONDS)).model
        return model

    async def generate(self, model: model_pb2.Model, **fields: Any) -> generation_pb2.GenerateResponse:
        response: generation_pb2.GenerateResponse = await self.generation.Generate(
            request_for(model, **fields), timeout=CALL_SECONDS
        )
        return response


def request_for(model: model_pb2.Model, **fields: Any) -> generation_pb2.GenerateRequest:
    sampling = generation_pb2.SamplingParameters(**{"max_tokens": 64} | fields.pop("sampling", {}))
    told = {"prompt": PROMPT} if "conversation" not in fields else {}
    return generation_pb2.GenerateRequest(model=model.name, sampling=sampling, **told | fields)


@pytest.fixture
async def service(foreign_triton: InferenceHost, tiny_checkpoint: Path, tmp_path: Path) -> AsyncIterator[Service]:
    settings = GenerationSettings(
        port=0,
        triton_target=foreign_triton.target,
        triton_key_file=foreign_triton.key_file,
        state_dir=tmp_path / "state",
        checkpoint_roots=str(tiny_checkpoint),
        foreign_tritons=f"{foreign_triton.target},127.0.0.1:{free_port('127.0.0.1')}",
        # The checkpoint host, which nothing here needs, is then not started.
        auto_engine="vllm",
    )
    async with (
        wire(settings, CollectorRegistry()) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        yield Service(channel, foreign_triton.target, tiny_checkpoint)


def cancelled(log: Path) -> int:
    """How many requests the fake was told to give up."""
    return len(log.read_text().splitlines())


async def error_of(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@pytest.fixture
def reversed_prompt(tiny_checkpoint: Path) -> Callable[[str], str]:
    """What the fakes answer greedily."""
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))

    def answer(prompt: str, tokens: int = 64) -> str:
        ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        text: str = tokenizer.decode(list(reversed(ids))[:tokens])
        return text

    return answer


@pytest.mark.parametrize(
    ("protocol", "name"), [(VLLM, MODEL_NAMES[VLLM]), (TENSORRT, MODEL_NAMES[TENSORRT]), (TENSORRT, BLS_NAME)]
)
async def test_a_foreign_model_answers_like_any_other(
    service: Service, protocol: int, name: str, reversed_prompt: Callable[[str], str]
) -> None:
    model = await service.register(protocol, model_name=name)
    assert model.state == model_pb2.MODEL_STATE_READY
    assert model.engine == ENGINES[protocol]
    assert (model.foreign.target, model.foreign.revision) == (service.target, "weights-1")
    answer = await service.generate(model)
    assert answer.completions[0].text == reversed_prompt(PROMPT)
    assert answer.completions[0].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert answer.model_digest == model.digest
    assert answer.usage.prompt_tokens == answer.usage.completion_tokens + 1  # the fake answers all but BOS
    short = await service.generate(model, sampling={"max_tokens": 3})
    assert short.completions[0].finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert short.completions[0].token_count == 3
    again = await service.register(protocol, model_name=name)
    assert again.name == model.name


@pytest.mark.parametrize("protocol", [VLLM, TENSORRT])
async def test_a_rendered_conversation_reaches_the_model_with_one_bos(service: Service, protocol: int) -> None:
    model = await service.register(protocol)
    answer = await service.generate(model, conversation=USER)
    tokenizer = Tokenizer.from_file(str(service.tokenizer / "tokenizer.json"))
    meant = tokenizer.encode("<s><|user|>Which planet?</s><|assistant|>", add_special_tokens=False).ids
    assert answer.usage.prompt_tokens == len(meant)


@pytest.mark.parametrize("protocol", [VLLM, TENSORRT])
async def test_sampling_follows_its_seed_and_samples_differ(service: Service, protocol: int) -> None:
    model = await service.register(protocol)
    drawn = {"temperature": 1.0, "seed": 5}
    first = await service.generate(model, sampling=drawn, sample_count=4)
    texts = [each.text for each in first.completions]
    assert len(set(texts)) > 1
    fresh = generation_pb2.CACHE_MODE_BYPASS
    second = await service.generate(model, sampling=drawn, sample_count=4, cache_mode=fresh)
    assert [each.text for each in second.completions] == texts
    unseeded = await service.generate(model, sampling={"temperature": 1.0}, sample_count=4)
    assert len({each.text for each in unseeded.completions}) > 1


@pytest.mark.parametrize("protocol", [VLLM, TENSORRT])
async def test_an_answer_ends_before_its_stop_string(
    service: Service, protocol: int, reversed_prompt: Callable[[str], str]
) -> None:
    model = await service.register(protocol)
    answer = await service.generate(model, sampling={"stop": ["What"]})
    assert answer.completions[0].text == reversed_prompt(PROMPT).partition("What")[0]
    assert answer.completions[0].finish_reason == generation_pb2.FINISH_REASON_STOP


@pytest.mark.parametrize(("protocol", "fewest_pieces"), [(VLLM, 3), (TENSORRT, 1)])
async def test_pieces_are_the_answer(service: Service, protocol: int, fewest_pieces: int) -> None:
    model = await service.register(protocol, revision="")
    request = generation_pb2.GenerateTokensRequest(request=request_for(model))
    events = [event async for event in service.generation.GenerateTokens(request, timeout=CALL_SECONDS)]
    pieces, whole = [event.piece for event in events[:-1]], events[-1].response.completions[0]
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum(piece.token_count for piece in pieces) == whole.token_count
    assert len(pieces) >= fewest_pieces


@pytest.fixture
def choices(tiny_checkpoint: Path) -> Sequence[tuple[str, float]]:
    """Continuations of one token with their log-likelihoods by the fakes, the most likely first."""
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    logits = [(token * 7919 % 1000) / 100 for token in range(tokenizer.get_vocab_size())]
    normaliser = math.log(sum(map(math.exp, logits)))
    context = tokenizer.encode(PROMPT).ids
    found = []
    for token in sorted(range(len(logits)), key=lambda each: -logits[each]):
        text = tokenizer.decode([token])
        if tokenizer.encode(PROMPT + text).ids == [*context, token]:
            found.append((text, logits[token] - normaliser))
    return found


def scoring_request(model: model_pb2.Model, *continuations: str) -> generation_pb2.ScoreContinuationsRequest:
    return generation_pb2.ScoreContinuationsRequest(model=model.name, prompt=PROMPT, continuations=continuations)


@pytest.mark.parametrize("protocol", [VLLM, TENSORRT])
async def test_choices_of_one_token_are_scored_exactly(
    service: Service, protocol: int, choices: Sequence[tuple[str, float]]
) -> None:
    """Whether they are among the most likely ones or not."""
    model = await service.register(protocol)
    for asked in (choices[:3], [choices[0], *choices[-3:]]):
        request = scoring_request(model, *(text for text, _ in asked))
        response = await service.generation.ScoreContinuations(request, timeout=CALL_SECONDS)
        expected = [pytest.approx(value, abs=1e-5) for _, value in asked]
        assert [each.log_likelihood for each in response.scores] == expected
        assert [each.token_count for each in response.scores] == [1] * len(asked)
        assert not any(each.is_greedy for each in response.scores[1:])


async def test_an_older_vllm_scores_only_what_it_tells(service: Service, choices: Sequence[tuple[str, float]]) -> None:
    model = await service.register(VLLM, model_name=OLD_NAME)
    assert (
        await service.generation.ScoreContinuations(scoring_request(model, choices[0][0]), timeout=CALL_SECONDS)
    ).scores
    error = await error_of(
        service.generation.ScoreContinuations(scoring_request(model, choices[-1][0]), timeout=CALL_SECONDS)
    )
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "FOREIGN_LOGPROB_MISSING")


@pytest.mark.parametrize("protocol", [VLLM, TENSORRT])
async def test_what_cannot_be_scored_exactly_is_refused(service: Service, protocol: int) -> None:
    model = await service.register(protocol)
    request = scoring_request(model, " The largest planet")
    error = await error_of(service.generation.ScoreContinuations(request, timeout=CALL_SECONDS))
    assert (error.code, error.reason) == (grpc.StatusCode.UNIMPLEMENTED, "FOREIGN_SCORING_UNSUPPORTED")


async def test_answers_are_kept_only_where_the_content_has_a_revision(service: Service) -> None:
    known, unknown = await service.register(VLLM), await service.register(VLLM, revision="")
    assert known.digest != unknown.digest
    for model, outcome in (
        (known, generation_pb2.CACHE_OUTCOME_HIT),
        (unknown, generation_pb2.CACHE_OUTCOME_NOT_CACHEABLE),
    ):
        await service.generate(model)
        second = await service.generate(model, explain_cache=True)
        assert second.cache_explanation.outcome == outcome
    moved = await service.register(VLLM, revision="weights-2")
    assert (await service.generate(moved, explain_cache=True)).cache_explanation.differing_parts == ["model"]


async def test_errors_in_the_stream_keep_their_status(service: Service) -> None:
    model = await service.register(VLLM)
    error = await error_of(service.generate(model, prompt="!unhealthy"))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.retry_after_seconds
    error = await error_of(service.generate(model, prompt="!abort"))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "FOREIGN_ANSWER_INVALID")
    error = await error_of(service.generate(model, prompt="!silent"))
    assert error.reason == "FOREIGN_ANSWER_INCOMPLETE"


async def test_a_bos_of_the_server_is_noticed(service: Service, tmp_path: Path) -> None:
    """The tokenizer that is registered adds no BOS, the server's does: every prompt would be read with one too many."""
    folder = service.tokenizer / "without-bos"
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer.from_file(str(service.tokenizer / "tokenizer.json"))
    tokenizer.post_processor = None
    tokenizer.save(str(folder / "tokenizer.json"))
    foreign = model_pb2.ForeignTriton(target=service.target, model_name=MODEL_NAMES[VLLM], protocol=VLLM)
    request = model_pb2.CreateModelRequest(checkpoint_path=str(folder), foreign=foreign)
    model = (await service.models.CreateModel(request, timeout=CALL_SECONDS)).model
    error = await error_of(service.generate(model))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_TOKEN_COUNT_MISMATCH")
    assert "double BOS" in error.message


async def test_leaving_a_stream_stops_the_foreign_model(service: Service, cancel_log: Path) -> None:
    model = await service.register(VLLM)
    before = cancelled(cancel_log)
    request = generation_pb2.GenerateTokensRequest(request=request_for(model, prompt="!slow " + PROMPT))
    call = service.generation.GenerateTokens(request, timeout=CALL_SECONDS)
    assert (await anext(aiter(call))).HasField("piece")
    call.cancel()
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while cancelled(cancel_log) == before:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.02)


async def test_what_may_not_or_cannot_be_asked_is_not_registered(service: Service) -> None:
    error = await error_of(service.register(VLLM, target="127.0.0.1:1"))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FOREIGN_TARGET_NOT_ALLOWED")
    assert "EVALFLEET_FOREIGN_TRITONS" in error.message
    error = await error_of(service.register(VLLM, model_name="nobody"))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "FOREIGN_MODEL_NOT_FOUND")
    error = await error_of(service.register(TENSORRT, model_name=MODEL_NAMES[VLLM]))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FOREIGN_MODEL_MISMATCH")
    assert "input 'max_tokens' is missing" in error.message
    assert "output 'num_input_tokens' is TYPE_UINT32, not TYPE_INT32" in error.message
    assert not (await service.models.ListModels(model_pb2.ListModelsRequest())).models

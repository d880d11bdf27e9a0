"""The cache's correctness matrix with real checkpoints on the real Triton, kept in SQLite and in a real Redis."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry
from safetensors.torch import load_file, save_file

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire
from services.runtime.testing import serve_in_process
from tests.conftest import InferenceHost
from tests.fakes.redis_server import RedisServer, running_redis
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Change = Callable[[Path], None]


class Service:
    """Stubs of a running generation service, and its metrics."""

    def __init__(
        self,
        models: "model_pb2_grpc.ModelServiceAsyncStub",
        generation: "generation_pb2_grpc.GenerationServiceAsyncStub",
        metrics: CollectorRegistry,
    ) -> None:
        self.models = models
        self.generation = generation
        self.metrics = metrics

    async def create(self, model_id: str, folder: Path, dtype: str = "float32", adapter: str = "") -> None:
        """Register a checkpoint and wait until it is READY."""
        request = model_pb2.CreateModelRequest(
            model_id=model_id, checkpoint_path=str(folder), dtype=dtype, adapter_path=adapter
        )
        model = (await self.models.CreateModel(request, timeout=120)).model
        while model.state == model_pb2.MODEL_STATE_LOADING:
            await asyncio.sleep(0.1)
            model = (await self.models.GetModel(model_pb2.GetModelRequest(name=model.name))).model
        assert model.state == model_pb2.MODEL_STATE_READY, model.failure

    async def ask(self, request: generation_pb2.GenerateRequest) -> generation_pb2.GenerateResponse:
        return await self.generation.Generate(request, timeout=120)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def cache_url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return ""
    server: RedisServer = request.getfixturevalue("redis")
    return server.url


@asynccontextmanager
async def serving(triton: InferenceHost, folder: Path, cache_url: str) -> AsyncIterator[Service]:
    settings = GenerationSettings(
        port=0,
        triton_target=triton.target,
        triton_key_file=triton.key_file,
        state_dir=folder / "state",
        checkpoint_roots=str(folder),
        ready_wait_seconds=120.0,
        cache_url=cache_url,
        # A Redis that the machine holds up for a moment would be a miss.
        cache_timeout_seconds=LONGEST_WAIT_SECONDS,
    )
    metrics = CollectorRegistry()
    async with wire(settings, metrics) as services, serve_in_process(*services, settings=settings) as channel:
        yield Service(
            model_pb2_grpc.ModelServiceStub(channel), generation_pb2_grpc.GenerationServiceStub(channel), metrics
        )


def request_for(model_id: str, **sampling: object) -> generation_pb2.GenerateRequest:
    values: dict[str, Any] = {
        "max_tokens": 6,
        "temperature": 0.9,
        "top_p": 0.95,
        "stop": ["zzz"],
        "seed": 11,
        **sampling,
    }
    turns = [
        common_pb2.Message(role=common_pb2.ROLE_SYSTEM, content="Be brief."),
        common_pb2.Message(role=common_pb2.ROLE_USER, content="What is 2 + 3?"),
    ]
    return generation_pb2.GenerateRequest(
        model=f"models/{model_id}",
        conversation=common_pb2.Conversation(messages=turns),
        sampling=generation_pb2.SamplingParameters(**values),
    )


def other_turn(index: int) -> generation_pb2.GenerateRequest:
    request = request_for("base")
    request.conversation.messages[index].content += " Please."
    return request


def another_sample() -> generation_pb2.GenerateRequest:
    request = request_for("base")
    request.sample_count = 2
    return request


REQUESTS = {
    "system prompt": other_turn(0),
    "prompt": other_turn(1),
    "stop": request_for("base", stop=["yyy"]),
    "temperature": request_for("base", temperature=0.8),
    "top_p": request_for("base", top_p=0.9),
    "max_tokens": request_for("base", max_tokens=5),
    "seed": request_for("base", seed=12),
    "sample index": another_sample(),
}


def change_weights(folder: Path) -> None:
    """Change one number in one tensor."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})


def change_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"][-1]["lstrip"] = True
    file.write_text(json.dumps(tokenizer))


def change_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text() + " ")


CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "weights": (change_weights, "float32"),
    "tokenizer": (change_tokenizer, "float32"),
    "chat-template": (change_template, "float32"),
    "dtype": (lambda _folder: None, "bfloat16"),
}


def write_adapter(base: Path, folder: Path) -> None:
    """Write a random LoRA adapter of a checkpoint."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(folder))


async def test_one_changed_byte_of_an_adapter_misses(
    triton: InferenceHost, tiny_checkpoint: Path, tmp_path: Path, cache_url: str
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "base")
    write_adapter(tiny_checkpoint, tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", tmp_path / "other-adapter")
    file = tmp_path / "other-adapter" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-4] ^= 1  # the lowest bit of the last number
    file.write_bytes(content)
    digests = set()
    async with serving(triton, tmp_path, cache_url) as service:
        for name, adapter in (("bare", ""), ("adapted", "adapter"), ("other", "other-adapter")):
            await service.create(name, tmp_path / "base", adapter=str(tmp_path / adapter) if adapter else "")
            # Not the other test's request: in Redis, the bare checkpoint's answer to that one is known.
            request = request_for(name, seed=99)
            fresh, repeated = await service.ask(request), await service.ask(request)
            assert (fresh.cached, repeated.cached) == (False, True), name
            digests.add(fresh.model_digest)
            await service.models.DeleteModel(model_pb2.DeleteModelRequest(name=f"models/{name}"), timeout=120)
    assert len(digests) == 3


async def test_each_change_misses_and_each_repeat_hits(
    triton: InferenceHost, tiny_checkpoint: Path, tmp_path: Path, cache_url: str
) -> None:
    async with serving(triton, tmp_path, cache_url) as service:
        shutil.copytree(tiny_checkpoint, tmp_path / "base")
        await service.create("base", tmp_path / "base")
        first = await service.ask(request_for("base"))
        assert not first.cached
        assert first.usage.computed_completion_tokens > 0
        again = await service.ask(request_for("base"))
        assert again.cached
        assert again.usage.computed_prompt_tokens + again.usage.computed_completion_tokens == 0
        assert again.completions[0].text == first.completions[0].text
        for change, request in REQUESTS.items():
            fresh, repeated = await service.ask(request), await service.ask(request)
            # The second sample is new, the first is the one that is known.
            expected = [True, False] if change == "sample index" else [False]
            assert [each.cached for each in fresh.completions] == expected, change
            assert repeated.cached, change
            assert [each.text for each in repeated.completions] == [each.text for each in fresh.completions]
        for name, (alter, dtype) in CHECKPOINTS.items():
            shutil.copytree(tiny_checkpoint, tmp_path / name)
            alter(tmp_path / name)
            await service.create(name, tmp_path / name, dtype)
            fresh, repeated = await service.ask(request_for(name)), await service.ask(request_for(name))
            assert (fresh.cached, repeated.cached) == (False, True), name
            assert fresh.model_digest != first.model_digest
            await service.models.DeleteModel(model_pb2.DeleteModelRequest(name=f"models/{name}"), timeout=120)
        assert (await service.ask(request_for("base"))).cached
        await service.models.DeleteModel(model_pb2.DeleteModelRequest(name="models/base"), timeout=120)


async def test_sixty_four_identical_requests_cause_one_inference(
    triton: InferenceHost, tiny_checkpoint: Path, tmp_path: Path, cache_url: str
) -> None:
    async with serving(triton, tmp_path, cache_url) as service:
        shutil.copytree(tiny_checkpoint, tmp_path / "base")
        await service.create("flight", tmp_path / "base")
        # Nobody has asked this before, in Redis neither.
        seed = int.from_bytes(os.urandom(6), "big")
        request = request_for("flight", max_tokens=100, seed=seed)
        responses = await asyncio.gather(*(service.ask(request) for _ in range(64)))
        [computed] = [each for each in responses if not each.cached]
        assert {each.completions[0].text for each in responses} == {computed.completions[0].text}
        total = sum(each.usage.computed_completion_tokens for each in responses)
        assert total == computed.usage.completion_tokens
        lookup = "evalfleet_generation_cache_lookups_total"
        assert service.metrics.get_sample_value(lookup, {"outcome": "miss"}) == 1
        await service.models.DeleteModel(model_pb2.DeleteModelRequest(name="models/flight"), timeout=120)

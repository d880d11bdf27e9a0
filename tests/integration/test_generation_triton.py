"""The generation service over real gRPC, in front of a real Triton that is also killed."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from prometheus_client import CollectorRegistry

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire
from services.inference.client import InferenceClient
from services.inference.host_client import CheckpointHostClient
from services.inference.host_contract import HOST_MODEL
from services.runtime.errors import FleetError, from_rpc_error, from_status
from services.runtime.testing import serve_in_process
from tests.integration.killable_triton import START_SECONDS, Triton
from tests.patience import LONGEST_WAIT_SECONDS, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

PROMPT = "What is 2 + 3?"


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    triton = Triton(tmp_path_factory.mktemp("triton"))
    triton.start()
    yield triton
    triton.stop()


@dataclass(frozen=True)
class Service:
    """Stubs of a running generation service."""

    models: "model_pb2_grpc.ModelServiceAsyncStub"
    generation: "generation_pb2_grpc.GenerationServiceAsyncStub"

    async def create(self, model_id: str, checkpoint: Path) -> model_pb2.Model:
        """Register a checkpoint and wait until it is READY."""
        request = model_pb2.CreateModelRequest(model_id=model_id, checkpoint_path=str(checkpoint))
        model = (await self.models.CreateModel(request, timeout=120)).model
        while model.state == model_pb2.MODEL_STATE_LOADING:
            await asyncio.sleep(0.2)
            model = (await self.models.GetModel(model_pb2.GetModelRequest(name=model.name))).model
        assert model.state == model_pb2.MODEL_STATE_READY, model.failure
        return model

    async def answer(self, model: str, *, timeout_seconds: float = START_SECONDS) -> str:
        """Answer the prompt greedily."""
        response = await self.generation.Generate(request_for(model), timeout=timeout_seconds)
        return response.completions[0].text

    async def texts(self, request: generation_pb2.GenerateRequest) -> list[str]:
        response = await self.generation.Generate(request, timeout=START_SECONDS)
        return [each.text for each in response.completions]

    async def delete(self, model: str) -> None:
        await self.models.DeleteModel(model_pb2.DeleteModelRequest(name=model), timeout=120)


def request_for(model: str, prompt: str = PROMPT) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        model=model, prompt=prompt, sampling=generation_pb2.SamplingParameters(max_tokens=8)
    )


@pytest.fixture
def settings(triton: Triton, tiny_checkpoint: Path, tmp_path: Path) -> GenerationSettings:
    return GenerationSettings(
        port=0,
        triton_target=triton.target,
        triton_key_file=triton.key_file,
        state_dir=tmp_path / "state",
        checkpoint_roots=f"{tiny_checkpoint.parent}:{tmp_path}",
        ready_wait_seconds=START_SECONDS,
        reconcile_interval_seconds=0.5,
        # What is tested here is what engines answer, and answer again.
        cache_url="off",
    )


@asynccontextmanager
async def running(settings: GenerationSettings, metrics: CollectorRegistry | None = None) -> AsyncIterator[Service]:
    async with (
        wire(settings, metrics or CollectorRegistry()) as services,
        serve_in_process(*services, settings=settings) as channel,
    ):
        yield Service(model_pb2_grpc.ModelServiceStub(channel), generation_pb2_grpc.GenerationServiceStub(channel))


async def failure(call: Awaitable[object]) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def loaded_models(triton: Triton) -> set[str]:
    async with InferenceClient(triton.target, model_control_key=triton.key_file.read_text().strip()) as client:
        return set((await CheckpointHostClient(client).list(timeout_seconds=LONGEST_WAIT_SECONDS)).checkpoints)


async def test_a_checkpoint_is_registered_used_and_deleted(
    settings: GenerationSettings, tiny_checkpoint: Path, triton: Triton
) -> None:
    async with running(settings) as service:
        model = await service.create("tiny", tiny_checkpoint)
        assert (model.architecture, model.dtype, model.context_tokens) == ("LlamaForCausalLM", "float32", 256)
        await _check_samples(service, model)
        await _check_batch(service, model)
        await _check_scores(service, model, tiny_checkpoint)
        assert len(await loaded_models(triton)) == 1
        await service.delete(model.name)
        error = await failure(service.answer(model.name))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert await loaded_models(triton) == set()


async def _check_samples(service: Service, model: model_pb2.Model) -> None:
    """Samples of a conversation differ from each other and are the same again with the same seed."""
    turns = [
        common_pb2.Message(role=common_pb2.ROLE_SYSTEM, content="Be brief."),
        common_pb2.Message(role=common_pb2.ROLE_USER, content=PROMPT),
    ]
    request = generation_pb2.GenerateRequest(
        model=model.name,
        conversation=common_pb2.Conversation(messages=turns),
        sampling=generation_pb2.SamplingParameters(max_tokens=8, temperature=1.0, seed=3),
        sample_count=4,
    )
    first = await service.generation.Generate(request, timeout=120)
    assert len({completion.text for completion in first.completions}) > 1
    assert first.model_digest == model.digest
    assert first.usage.prompt_tokens > 10
    assert first.usage.completion_tokens == sum(completion.token_count for completion in first.completions)
    assert first.usage.engine_time.ToTimedelta().total_seconds() > 0
    again = await service.generation.Generate(request, timeout=120)
    assert [each.text for each in again.completions] == [each.text for each in first.completions]


async def _check_batch(service: Service, model: model_pb2.Model) -> None:
    """Bad items fail by themselves, and order is kept."""
    long = "fox " * 400
    requests = [
        request_for(model.name),
        request_for(model.name, ""),
        request_for(model.name, long),
        request_for("models/tin"),
        request_for(model.name, "The quick brown"),
    ]
    response = await service.generation.BatchGenerate(
        generation_pb2.BatchGenerateRequest(requests=requests), timeout=120
    )
    kinds = [result.WhichOneof("outcome") for result in response.results]
    assert kinds == ["response", "status", "status", "status", "response"]
    too_long = from_status(response.results[2].status)
    assert (too_long.code, too_long.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROMPT_TOO_LONG")
    assert int(too_long.metadata["prompt_tokens"]) > int(too_long.metadata["context_tokens"]) == 256
    assert from_status(response.results[3].status).metadata["nearest"] == "tiny"
    for result, request in zip(response.results, requests, strict=True):
        if result.HasField("response"):
            alone = await service.generation.Generate(request, timeout=120)
            assert [each.text for each in result.response.completions] == [each.text for each in alone.completions]
            assert result.response.usage.prompt_tokens == alone.usage.prompt_tokens
    cut = request_for(model.name, long)
    cut.truncation = generation_pb2.TRUNCATION_POLICY_LEFT
    answer = await service.generation.Generate(cut, timeout=120)
    assert answer.truncated
    assert answer.usage.prompt_tokens <= 256


async def _check_scores(service: Service, model: model_pb2.Model, checkpoint: Path) -> None:
    """Log-likelihoods are those that transformers gives on the same folder."""
    continuations = [" 5.", " Jupiter", " the lazy dog"]
    response = await service.generation.ScoreContinuations(
        generation_pb2.ScoreContinuationsRequest(model=model.name, prompt=PROMPT, continuations=continuations),
        timeout=120,
    )
    expected = [await asyncio.to_thread(_log_likelihood, checkpoint, PROMPT, each) for each in continuations]
    assert [score.log_likelihood for score in response.scores] == pytest.approx(expected, abs=1e-3)
    assert response.usage.completion_tokens == sum(score.token_count for score in response.scores)
    assert (response.model_digest, response.truncated) == (model.digest, False)


def _log_likelihood(checkpoint: Path, context: str, continuation: str) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    whole, start = tokenizer(context + continuation).input_ids, len(tokenizer(context).input_ids)
    with torch.inference_mode():
        log_probabilities = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(log_probabilities[index - 1, whole[index]]) for index in range(start, len(whole)))


async def test_a_restarted_service_finds_its_models(settings: GenerationSettings, tiny_checkpoint: Path) -> None:
    async with running(settings) as service:
        model = await service.create("kept", tiny_checkpoint)
        before = await service.answer(model.name)
    async with running(settings) as service:
        listed = await service.models.ListModels(model_pb2.ListModelsRequest())
        assert list(listed.models) == [model]
        assert await service.answer(model.name) == before
        await service.delete(model.name)


async def test_a_killed_triton_gets_its_models_back(
    settings: GenerationSettings, tiny_checkpoint: Path, triton: Triton
) -> None:
    async with running(settings) as service:
        model = await service.create("survivor", tiny_checkpoint)
        before = await service.answer(model.name)
        await asyncio.to_thread(triton.kill)
        waiting = asyncio.create_task(service.answer(model.name))
        for seconds in (1.0, 5.0, 20.0):
            error = await failure(service.answer(model.name, timeout_seconds=seconds))
            # A caller without patience on a busy machine is gone before it can be told.
            if error.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
                break
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INFERENCE_UNAVAILABLE")
        assert error.retry_after_seconds
        error = await failure(service.delete(model.name))
        assert error.code is grpc.StatusCode.UNAVAILABLE
        await asyncio.to_thread(triton.start)
        assert await waiting == before
        found = (await service.models.GetModel(model_pb2.GetModelRequest(name=model.name))).model
        # Its answers since then count as uses, and nothing else about it has changed.
        assert found.last_use_time.ToNanoseconds() > model.last_use_time.ToNanoseconds()
        found.last_use_time.CopyFrom(model.last_use_time)
        assert found == model
        await service.delete(model.name)


@pytest.fixture
def second_triton(triton: Triton, tmp_path: Path) -> Iterator[Triton]:
    second = Triton(tmp_path, triton.key_file)
    second.start()
    yield second
    second.stop()


async def test_two_tritons_answer_as_one_and_one_may_be_killed(
    settings: GenerationSettings, tiny_checkpoint: Path, triton: Triton, second_triton: Triton
) -> None:
    requests = [sampled_request("models/spread", seed) for seed in range(4)]
    async with running(settings) as service:
        await service.create("spread", tiny_checkpoint)
        expected = [await service.texts(each) for each in requests]
        [deployment] = await loaded_models(triton)
    both, metrics = f"{triton.target},{second_triton.target}", CollectorRegistry()
    async with running(settings.model_copy(update={"triton_target": both}), metrics) as service:
        await has_model(second_triton, deployment)
        answered = [0] * 8
        done = asyncio.Event()

        async def ask(worker: int) -> None:
            while not done.is_set():
                texts = [await service.texts(each) for each in requests]
                assert texts == expected
                answered[worker] += 1

        async with asyncio.timeout(START_SECONDS), asyncio.TaskGroup() as workers:
            for worker in range(len(answered)):
                workers.create_task(ask(worker))
            await until(lambda: min(answered) >= 1)
            await asyncio.to_thread(second_triton.kill)
            await until(lambda: tritons(metrics) == (1, 1))
            seen = list(answered)
            await until(lambda: all(now > before for now, before in zip(answered, seen, strict=True)))
            done.set()
        await asyncio.to_thread(second_triton.start)
        await has_model(second_triton, deployment)
        await until(lambda: tritons(metrics) == (2, 0))
        assert [await service.texts(each) for each in requests] == expected
        await service.delete("models/spread")
        assert (await loaded_models(triton), await loaded_models(second_triton)) == (set(), set())


def sampled_request(model: str, seed: int) -> generation_pb2.GenerateRequest:
    sampling = generation_pb2.SamplingParameters(max_tokens=8, temperature=1.0, seed=seed)
    return generation_pb2.GenerateRequest(model=model, prompt=PROMPT, sampling=sampling)


def tritons(metrics: CollectorRegistry) -> tuple[float | None, ...]:
    """How many are ready, and away."""
    return tuple(
        metrics.get_sample_value("evalfleet_generation_tritons", {"state": each}) for each in ("ready", "away")
    )


async def has_model(triton: Triton, deployment: str) -> None:
    async with asyncio.timeout(START_SECONDS):
        while not await has_loaded(triton, deployment):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.1)


async def has_loaded(triton: Triton, deployment: str) -> bool:
    try:
        return deployment in await loaded_models(triton)
    except FleetError:
        return False  # nothing was loaded there yet


async def test_a_bulk_stream_loses_no_item_when_triton_dies_under_it(
    settings: GenerationSettings, tiny_checkpoint: Path, triton: Triton
) -> None:
    async with running(settings) as service:
        model = await service.create("streamed", tiny_checkpoint)
        lengths = {"short": 1} | {f"long {number}": 200 for number in range(40)}
        items = [
            generation_pb2.StreamGenerateRequest(
                item_id=key,
                request=generation_pb2.GenerateRequest(
                    model=model.name,
                    prompt=f"{key} fox",
                    sampling=generation_pb2.SamplingParameters(max_tokens=tokens),
                ),
            )
            for key, tokens in lengths.items()
        ]
        outcomes: list[generation_pb2.StreamGenerateResponse] = []
        async for outcome in service.generation.StreamGenerate(iter(items)):
            if not outcomes:
                await asyncio.to_thread(triton.kill)
                await asyncio.to_thread(triton.start)
            outcomes.append(outcome)
        assert sorted(each.item_id for each in outcomes) == sorted(lengths)
        assert all(each.HasField("response") for each in outcomes), outcomes
        await service.delete(model.name)


async def test_a_killed_engine_process_is_started_again_and_its_checkpoints_come_back(
    settings: GenerationSettings, checkpoint_factory: Callable[[int], Path], triton: Triton
) -> None:
    folders = {f"crashing-{seed}": checkpoint_factory(seed) for seed in (7, 8)}
    roots = ":".join(str(folder.parent) for folder in folders.values())
    async with running(settings.model_copy(update={"checkpoint_roots": roots})) as service:
        models = [await service.create(model_id, folder) for model_id, folder in folders.items()]
        before = [await service.answer(model.name) for model in models]
        assert before[0] != before[1]
        # Long ones, so that they are in flight when the process dies: each has exactly one outcome all the same.
        long = [
            generation_pb2.GenerateRequest(
                model=model.name, prompt="fox", sampling=generation_pb2.SamplingParameters(max_tokens=200)
            )
            for model in models * 8
        ]
        in_flight = [asyncio.ensure_future(service.generation.Generate(each, timeout=START_SECONDS)) for each in long]
        await asyncio.sleep(0.05)
        await asyncio.to_thread(triton.kill_engine, HOST_MODEL)
        assert [await service.answer(model.name) for model in models] == before
        answers = await asyncio.gather(*in_flight)
        assert len({answer.completions[0].text for answer in answers}) == 2
        for model in models:
            await service.delete(model.name)


async def test_an_adapter_is_another_model_than_its_base(
    settings: GenerationSettings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = await asyncio.to_thread(_write_adapter, tiny_checkpoint, tmp_path / "adapter")
    async with running(settings) as service:
        base = await service.create("base", tiny_checkpoint)
        request = model_pb2.CreateModelRequest(
            model_id="tuned", checkpoint_path=str(tiny_checkpoint), adapter_path=str(adapter)
        )
        tuned = (await service.models.CreateModel(request, timeout=120)).model
        assert (tuned.adapter_path, tuned.state) == (str(adapter), model_pb2.MODEL_STATE_READY)
        assert tuned.digest != base.digest
        assert await service.answer(tuned.name) != await service.answer(base.name)
        (adapter / "adapter_config.json").write_text('{"peft_type": "IA3"}')
        request.model_id = "other"
        error = await failure(service.models.CreateModel(request, timeout=120))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_UNSUPPORTED")
        await service.delete(tuned.name)
        await service.delete(base.name)


def _write_adapter(base: Path, folder: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(folder))
    return folder


async def test_files_cut_short_under_a_loaded_checkpoint_harm_nobody(
    settings: GenerationSettings, tiny_checkpoint: Path, checkpoint_factory: Callable[[int], Path], tmp_path: Path
) -> None:
    victim = shutil.copytree(checkpoint_factory(9), tmp_path / "victim")
    async with running(settings) as service:
        models = [await service.create("bystander", tiny_checkpoint), await service.create("victim", victim)]
        before = [await service.answer(model.name) for model in models]
        (victim / "model.safetensors").write_bytes(b"")
        scored = generation_pb2.ScoreContinuationsRequest(model="models/victim", prompt="The", continuations=[" quick"])
        assert (await service.generation.ScoreContinuations(scored, timeout=120)).scores[0].token_count
        assert [await service.answer(model.name) for model in models] == before
        for model in models:
            await service.delete(model.name)


def start_service(folder: Path, settings: GenerationSettings) -> "subprocess.Popen[str]":
    """Start the service as a process of its own."""
    environment = {
        "EVALFLEET_PORT": "0",
        "EVALFLEET_READY_FILE": str(folder / "ready"),
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_STATE_DIR": str(settings.state_dir),
        "EVALFLEET_TRITON_TARGET": settings.triton_target,
        "EVALFLEET_TRITON_KEY_FILE": str(settings.triton_key_file),
        "EVALFLEET_CHECKPOINT_ROOTS": settings.checkpoint_roots,
        "EVALFLEET_DRAIN_DELAY_SECONDS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.generation"],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


async def connect(folder: Path, process: "subprocess.Popen[str]") -> grpc.aio.Channel:
    """Wait until the process serves, and open a channel to it."""
    ready_file = folder / "ready"
    async with asyncio.timeout(START_SECONDS):
        while not await asyncio.to_thread(ready_file.exists):
            assert process.poll() is None, process.communicate()[1]
            await asyncio.sleep(0.1)
    return grpc.aio.insecure_channel(await asyncio.to_thread(ready_file.read_text))


async def test_a_killed_service_process_finds_its_models(
    settings: GenerationSettings, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    first = start_service(tmp_path, settings)
    async with await connect(tmp_path, first) as channel:
        service = Service(model_pb2_grpc.ModelServiceStub(channel), generation_pb2_grpc.GenerationServiceStub(channel))
        model = await service.create("kept", tiny_checkpoint)
        rival = start_service(tmp_path, settings)
        _, complaint = await asyncio.to_thread(rival.communicate, timeout=120)
        assert rival.returncode == 1
        assert "another generation service" in complaint.splitlines()[-1]
        assert "Traceback" not in complaint
    first.kill()
    await asyncio.to_thread(first.communicate, timeout=LONGEST_WAIT_SECONDS)
    await asyncio.to_thread((tmp_path / "ready").unlink, missing_ok=True)
    second = start_service(tmp_path, settings)
    async with await connect(tmp_path, second) as channel:
        service = Service(model_pb2_grpc.ModelServiceStub(channel), generation_pb2_grpc.GenerationServiceStub(channel))
        assert list((await service.models.ListModels(model_pb2.ListModelsRequest())).models) == [model]
        await service.answer(model.name)
        await service.delete(model.name)
    second.terminate()
    _, log = await asyncio.to_thread(second.communicate, timeout=LONGEST_WAIT_SECONDS)
    assert second.returncode == 0, log


async def test_a_checkpoint_that_no_engine_knows_fails_with_a_reason(
    settings: GenerationSettings, tiny_checkpoint: Path, tmp_path: Path, triton: Triton
) -> None:
    unknown = shutil.copytree(tiny_checkpoint, tmp_path / "unknown")
    config = unknown / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"lama9"').replace("LlamaFor", "Lama9For"))
    cut = shutil.copytree(tiny_checkpoint, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    async with running(settings) as service:
        error = await failure(service.create("cut", cut))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CHECKPOINT_CORRUPT")
        request = model_pb2.CreateModelRequest(model_id="unknown", checkpoint_path=str(unknown))
        error = await failure(service.models.CreateModel(request, timeout=120))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
        assert "Traceback" not in error.message
        found = (await service.models.GetModel(model_pb2.GetModelRequest(name="models/unknown"))).model
        assert found.state == model_pb2.MODEL_STATE_FAILED
        assert "lama9" in found.failure.casefold()
        assert (await failure(service.answer("models/unknown"))).reason == "MODEL_LOAD_FAILED"
        await service.delete("models/unknown")
        assert await loaded_models(triton) == set()

"""The same requests to the same engines, inside the real Triton and inside the local host."""

import asyncio
import json
import shutil
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc

from services.inference import repository
from services.inference.client import InferenceClient
from services.inference.contract import CausalLMArguments, ClassifierArguments, Message
from services.inference.results import Generated
from services.inference.sampling import SamplingParameters
from services.runtime.errors import FleetError
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS

pytestmark = pytest.mark.integration

GREEDY = SamplingParameters(temperature=0, max_tokens=24)
LONG = SamplingParameters(seed=1, max_tokens=250, ignore_eos=True)
TIMEOUT_SECONDS = 120.0


@pytest.fixture(scope="module", params=["triton", "local"])
def host(request: pytest.FixtureRequest, inference_hosts: Callable[[str], Any]) -> Any:
    return inference_hosts(request.param)


@pytest.fixture
async def client(host: Any) -> AsyncIterator[InferenceClient]:
    async with InferenceClient(host.target, model_control_key=host.key) as client:
        yield client


@pytest.fixture(scope="module")
def model(host: Any, tiny_checkpoint: Path) -> Iterator[str]:
    """The tiny checkpoint, loaded under a name of its own."""
    name = f"tiny-{uuid.uuid4().hex[:8]}"

    async def change(*, load: bool) -> None:
        async with InferenceClient(host.target, model_control_key=host.key) as client:
            if load:
                entry = repository.causal_lm_entry(CausalLMArguments(model=str(tiny_checkpoint)))
                await client.load_model(name, entry, timeout_seconds=TIMEOUT_SECONDS)
            else:
                await client.unload_model(name, timeout_seconds=TIMEOUT_SECONDS)

    asyncio.run(change(load=True))
    yield name
    asyncio.run(change(load=False))


def metric(host: Any, name: str, model: str) -> float:
    with urllib.request.urlopen(f"http://{host.metrics_target}/metrics", timeout=60) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(f'{name}{{model="{model}"}}'):
                return float(line.rpartition(" ")[2])
    return 0.0


async def until_metric(host: Any, name: str, model: str, is_so: Callable[[float], bool]) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while not is_so(await asyncio.to_thread(metric, host, name, model)):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.1)


async def refusal(awaitable: Any) -> tuple[str, str]:
    with pytest.raises(FleetError) as caught:
        await awaitable
    assert "Traceback" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value.code.name, caught.value.reason


async def test_everything_a_generating_model_does(
    host: Any, client: InferenceClient, model: str, tiny_checkpoint: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    ids = tokenizer("The quick", return_tensors="pt")["input_ids"]
    expected = tokenizer.decode(
        reference.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=1)[0, ids.shape[1] :],
        skip_special_tokens=True,
    )
    assert await client.is_ready()
    assert await client.is_model_ready(model)
    generated = await client.generate(model, "The quick", GREEDY, timeout_seconds=TIMEOUT_SECONDS)
    assert (generated.text, generated.finish_reason) == (expected, "length")
    assert (generated.num_input_tokens, generated.num_output_tokens) == (4, 24)
    assert (generated.engine_seconds or 0) > 0

    pieces = [
        piece async for piece in client.generate_stream(model, "The quick", GREEDY, timeout_seconds=TIMEOUT_SECONDS)
    ]
    assert "".join(piece.text for piece in pieces) == expected
    assert sum(piece.num_output_tokens for piece in pieces) == 24
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    # At least two: the first token is sent at once.
    assert len(pieces) > 1

    stopped = await client.generate(
        model, "The quick", replace(GREEDY, stop=(expected[5:8],)), timeout_seconds=TIMEOUT_SECONDS
    )
    assert (stopped.text, stopped.finish_reason) == (expected[: expected.index(expected[5:8])], "stop")
    scored = await client.score_continuations(model, "The quick ", ["brown fox", "x"], timeout_seconds=TIMEOUT_SECONDS)
    whole, context = tokenizer.encode("The quick brown fox"), tokenizer.encode("The quick")
    with torch.no_grad():
        log_probabilities = reference(torch.tensor([whole])).logits[0].log_softmax(-1)
    likelihood = sum(log_probabilities[i - 1, whole[i]].item() for i in range(len(context), len(whole)))
    assert scored.scores[0].log_likelihood == pytest.approx(likelihood, abs=1e-4)
    assert scored.scores[0].num_tokens == len(whole) - len(context)
    assert scored.num_input_tokens == len(context)


async def test_conversations_and_seeds(client: InferenceClient, model: str) -> None:
    messages = [Message("system", "Be brief – é."), Message("user", "Hi")]
    seeded = SamplingParameters(seed=11, max_tokens=20, temperature=1.5, top_p=0.9)

    async def answer(sampling: SamplingParameters) -> Generated:
        return await client.generate(
            model, messages, sampling, timeout_seconds=TIMEOUT_SECONDS, want_cumulative_logprob=True
        )

    alone = await answer(seeded)
    crowd = await asyncio.gather(*(answer(replace(seeded, seed=seed)) for seed in (11, 12, 13, 11, None)))
    assert [each.text == alone.text for each in crowd[:4]] == [True, False, False, True]
    assert crowd[0].cumulative_logprob == pytest.approx(alone.cumulative_logprob, abs=1e-3)
    scored = await client.score_continuations(model, messages, ["A", "B"], timeout_seconds=TIMEOUT_SECONDS)
    assert len(scored.scores) == 2


async def test_many_requests_at_once_are_all_answered(client: InferenceClient, model: str) -> None:
    generations = [
        client.generate(model, f"fox {n}", replace(GREEDY, max_tokens=1 + n % 9), timeout_seconds=TIMEOUT_SECONDS)
        for n in range(60)
    ]
    scorings = [
        client.score_continuations(model, f"fox {n}", ["a", "bb c"], timeout_seconds=TIMEOUT_SECONDS) for n in range(60)
    ]
    answers, _ = await asyncio.gather(asyncio.gather(*generations), asyncio.gather(*scorings))
    alone = await client.generate(model, "fox 8", replace(GREEDY, max_tokens=9), timeout_seconds=TIMEOUT_SECONDS)
    assert answers[8].text == alone.text


async def test_a_cancelled_request_frees_its_row(host: Any, client: InferenceClient, tiny_checkpoint: Path) -> None:
    # A window of thousands of tokens, so that the answer would take far longer than noticing that nobody waits.
    folder = await asyncio.to_thread(shutil.copytree, tiny_checkpoint, host.state_dir / uuid.uuid4().hex)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 60_000}))
    name = folder.name
    entry = repository.causal_lm_entry(CausalLMArguments(model=str(folder)))
    await client.load_model(name, entry, timeout_seconds=TIMEOUT_SECONDS)
    endless = replace(LONG, max_tokens=50_000)

    async def read_one_piece() -> None:
        stream = client.generate_stream(name, "The quick", endless, timeout_seconds=TIMEOUT_SECONDS)
        async with aclosing(stream):
            async for _ in stream:
                return

    task = asyncio.create_task(client.generate(name, "The quick", endless, timeout_seconds=TIMEOUT_SECONDS))
    cancelled, running = "evalfleet_engine_cancelled_requests_total", "evalfleet_engine_running_sequences"
    await read_one_piece()
    await until_metric(host, cancelled, name, lambda count: count == 1)
    await until_metric(host, running, name, lambda count: count == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_metric(host, cancelled, name, lambda count: count == 2)
    await until_metric(host, running, name, lambda count: count == 0)
    was_running = False
    for seconds in GROWING_SECONDS:
        late = asyncio.create_task(refusal(client.generate(name, "The quick", endless, timeout_seconds=seconds)))
        while not late.done():
            was_running |= await asyncio.to_thread(metric, host, running, name) == 1
            await asyncio.sleep(0.01)
        assert late.result() == ("DEADLINE_EXCEEDED", "INFERENCE_DEADLINE_EXCEEDED")
        if was_running:
            break
    assert was_running
    await until_metric(host, cancelled, name, lambda count: count >= 3)
    await until_metric(host, running, name, lambda count: count == 0)
    answered = await client.generate(name, "The quick", GREEDY, timeout_seconds=TIMEOUT_SECONDS)
    assert answered.num_output_tokens == 24
    await client.unload_model(name, timeout_seconds=TIMEOUT_SECONDS)


async def test_bad_requests_come_back_with_their_reason(client: InferenceClient, model: str) -> None:
    def generate(prompt: Any, sampling: SamplingParameters = GREEDY, name: str = model) -> Any:
        return client.generate(name, prompt, sampling, timeout_seconds=TIMEOUT_SECONDS)

    assert await refusal(generate("")) == ("INVALID_ARGUMENT", "PROMPT_EMPTY")
    assert await refusal(generate("x", name="nobody")) == ("NOT_FOUND", "MODEL_NOT_LOADED")
    assert await refusal(generate([Message("judge", "x")])) == ("INVALID_ARGUMENT", "CHAT_TEMPLATE_REJECTED")
    assert await refusal(generate("x", replace(GREEDY, temperature=-1))) == (
        "INVALID_ARGUMENT",
        "INVALID_SAMPLING_PARAMETERS",
    )
    with pytest.raises(FleetError) as caught:
        await generate("1 2 3 " * 200)
    assert caught.value.reason == "PROMPT_TOO_LONG"
    assert caught.value.metadata["context_tokens"] == "256"
    assert int(caught.value.metadata["prompt_tokens"]) > 600
    cut = await client.generate(model, "1 2 3 " * 200, GREEDY, timeout_seconds=TIMEOUT_SECONDS, truncate_input=True)
    assert (cut.num_input_tokens, cut.num_truncated_tokens > 0) == (256 - 24, True)
    assert await refusal(client.classify(model, ["x"], timeout_seconds=TIMEOUT_SECONDS)) in [
        ("FAILED_PRECONDITION", "MODEL_LACKS_FEATURE"),
        ("INVALID_ARGUMENT", "PROMPT_EMPTY"),
    ]
    assert await refusal(client.generate(model, "x", LONG, timeout_seconds=0)) == (
        "DEADLINE_EXCEEDED",
        "INFERENCE_DEADLINE_EXCEEDED",
    )
    assert (await generate("x")).num_output_tokens > 0


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(pickled, "SAFETENSORS_MISSING"), (with_code, "REMOTE_CODE_REFUSED"), (shutil.rmtree, "CHECKPOINT_NOT_FOUND")],
)
async def test_a_bad_checkpoint_is_refused_with_its_reason(
    client: InferenceClient, tiny_checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    spoil(folder)
    entry = repository.causal_lm_entry(CausalLMArguments(model=str(folder)))
    name = f"bad-{uuid.uuid4().hex[:8]}"
    assert (await refusal(client.load_model(name, entry, timeout_seconds=TIMEOUT_SECONDS)))[1] == reason
    assert not await client.is_model_ready(name)


async def test_models_are_listed_while_they_are_loaded(client: InferenceClient, tiny_checkpoint: Path) -> None:
    name = f"listed-{uuid.uuid4().hex[:8]}"
    entry = repository.causal_lm_entry(CausalLMArguments(model=str(tiny_checkpoint)))

    async def states() -> dict[str, str]:
        return {each.name: each.state for each in await client.list_models(timeout_seconds=TIMEOUT_SECONDS)}

    assert name not in await states()
    await client.load_model(name, entry, timeout_seconds=TIMEOUT_SECONDS)
    assert (await states())[name] == "READY"
    await client.unload_model(name, timeout_seconds=TIMEOUT_SECONDS)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        while await client.is_model_ready(name):  # noqa: ASYNC110 - Triton unloads in the background
            await asyncio.sleep(0.05)
    assert name not in await states()
    await client.unload_model("never-loaded", timeout_seconds=TIMEOUT_SECONDS)


async def test_model_control_needs_the_key(host: Any, model: str, tiny_checkpoint: Path) -> None:
    entry = repository.causal_lm_entry(CausalLMArguments(model=str(tiny_checkpoint)))
    for key in (None, "wrong"):
        async with InferenceClient(host.target, model_control_key=key) as stranger:
            for call in (
                stranger.load_model("x", entry, timeout_seconds=TIMEOUT_SECONDS),
                stranger.unload_model(model, timeout_seconds=TIMEOUT_SECONDS),
                stranger.list_models(timeout_seconds=TIMEOUT_SECONDS),
            ):
                assert await refusal(call) == ("PERMISSION_DENIED", "MODEL_CONTROL_REFUSED")
            assert await stranger.is_model_ready(model)


async def test_nobody_reads_memory_or_changes_settings_without_the_key(inference_hosts: Callable[[str], Any]) -> None:
    memory = {"name": "x", "byte_size": 8}
    async with grpc.aio.insecure_channel(inference_hosts("triton").target) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for method, request in (
            (stub.SystemSharedMemoryRegister, kserve.SystemSharedMemoryRegisterRequest(key="/x", **memory)),
            (stub.SystemSharedMemoryStatus, kserve.SystemSharedMemoryStatusRequest()),
            (stub.SystemSharedMemoryUnregister, kserve.SystemSharedMemoryUnregisterRequest()),
            (stub.CudaSharedMemoryRegister, kserve.CudaSharedMemoryRegisterRequest(**memory)),
            (stub.TraceSetting, kserve.TraceSettingRequest()),
            (stub.LogSettings, kserve.LogSettingsRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match="This protocol is restricted"):
                await method(request, timeout=TIMEOUT_SECONDS)


async def test_a_classifier_answers_batches(
    host: Any, client: InferenceClient, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(1)
    config = BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    save_file({"weight": torch.randn(2, 16), "bias": torch.zeros(2)}, tmp_path / "head.safetensors")
    described = {"labels": ["safe", "unsafe"], "activation": "softmax", "max_tokens": 32}
    (tmp_path / "head.json").write_text(json.dumps(described))
    name = f"guard-{uuid.uuid4().hex[:8]}"
    arguments = ClassifierArguments(model=str(tmp_path), head=str(tmp_path), max_batch_size=16)
    await client.load_model(name, repository.classifier_entry(arguments), timeout_seconds=TIMEOUT_SECONDS)
    assert await client.classifier_labels(name, timeout_seconds=TIMEOUT_SECONDS) == ("safe", "unsafe")
    texts = ["Hi", "é", "the quick brown fox " * 20, ""]
    classified = await client.classify(name, texts, timeout_seconds=TIMEOUT_SECONDS)
    np.testing.assert_allclose(classified.probabilities.sum(axis=1), 1, atol=1e-6)
    assert classified.truncated.tolist() == [False, False, True, False]
    assert classified.num_tokens[2] == 32
    whole = await client.classify(name, texts, timeout_seconds=TIMEOUT_SECONDS, max_windows=8)
    assert whole.num_windows.tolist() == [1, 1, whole.num_windows[2], 1]
    assert whole.num_windows[2] > 1
    assert not whole.truncated.any()
    together = await asyncio.gather(
        *(client.classify(name, texts[: 1 + n % 4], timeout_seconds=TIMEOUT_SECONDS) for n in range(30))
    )
    for number, each in enumerate(together):
        np.testing.assert_allclose(each.probabilities, classified.probabilities[: 1 + number % 4], atol=1e-6)
    assert await refusal(client.classify(name, ["x"] * 17, timeout_seconds=TIMEOUT_SECONDS)) == (
        "INVALID_ARGUMENT",
        "BATCH_TOO_LARGE",
    )
    assert (await refusal(client.generate(name, "x", GREEDY, timeout_seconds=TIMEOUT_SECONDS)))[1] in (
        "MODEL_LACKS_FEATURE",
        "TENSOR_MISSING",
    )
    await until_metric(host, "evalfleet_engine_classified_texts_total", name, lambda count: count > 60)
    await client.unload_model(name, timeout_seconds=TIMEOUT_SECONDS)

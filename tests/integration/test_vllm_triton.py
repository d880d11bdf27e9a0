"""The real vLLM inside the real Triton, through the generation service and a suite, beside our own engine."""

import asyncio
import importlib.util
import shutil
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.results import RunState

from services.standalone.testing import RunningFleet

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: run `make vllm`"),
]

ENGINES = ("transformers", "vllm")
PROMPTS = ["2 + 3 =", "The capital of France is", "hello", "Question: 7 - 4\nAnswer:", "a b c d e f g"]
CONTINUATIONS = [" A", " B", " 5", " the answer is five", " 12 apples and 3 pears", "x"]


@pytest.fixture(scope="module")
def vllm_fleet(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """A fleet of this module's own: vLLM stays in memory once it has started."""
    with RunningFleet(checkpoint_roots=[tiny_policy.parent, tmp_path_factory.getbasetemp()]) as running:
        yield running


@pytest.fixture(scope="module")
def client(vllm_fleet: RunningFleet) -> Iterator[Fleet]:
    with Fleet.connect(vllm_fleet.endpoints) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def random_checkpoint(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Write random checkpoints of the policy's shape, by seed: their answers are longer than a hardly trained one's."""
    folder = tmp_path_factory.mktemp("random")

    def write(seed: int) -> Path:
        import torch
        from transformers import AutoConfig, LlamaForCausalLM

        path = folder / f"seed-{seed}"
        if not path.exists():
            shutil.copytree(tiny_policy, path)
            torch.manual_seed(seed)
            LlamaForCausalLM(AutoConfig.from_pretrained(path, initializer_range=0.2)).save_pretrained(path)
            # So that they are of one shape whatever saving adds.
            shutil.copy(tiny_policy / "config.json", path)
        return path

    return write


@pytest.fixture(scope="module")
def models(client: Fleet, random_checkpoint: Callable[[int], Path]) -> dict[str, str]:
    """The same checkpoint in both engines: engine → name."""
    return {engine: client.models.add(random_checkpoint(1), model_id=engine, engine=engine).name for engine in ENGINES}


@pytest.fixture
def vllm_metric(vllm_fleet: RunningFleet) -> Callable[[str], float]:
    """Read a figure of the vLLM hosts from Triton's metrics endpoint."""

    host, port = vllm_fleet.triton_target.split(":")

    def read(name: str) -> float:
        # A fleet's Triton shows its metrics one port behind its own.
        with urllib.request.urlopen(f"http://{host}:{int(port) + 1}/metrics", timeout=5) as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name + '{model="evalfleet-vllm-'))

    return read


@pytest.fixture
async def stub(vllm_fleet: RunningFleet) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(vllm_fleet.endpoints["generation"]) as channel:
        yield generation_pb2_grpc.GenerationServiceStub(channel)


Stub = Any


def generation(model: str, prompt: str, **sampling: Any) -> generation_pb2.GenerateRequest:
    parameters = generation_pb2.SamplingParameters(**{"max_tokens": 24, "temperature": 0.0, **sampling})
    return generation_pb2.GenerateRequest(
        model=model, prompt=prompt, sampling=parameters, truncation=generation_pb2.TRUNCATION_POLICY_LEFT
    )


async def answers(stub: Stub, model: str, **sampling: object) -> list[tuple[str, int, int]]:
    replies = await asyncio.gather(
        *(stub.Generate(generation(model, each, **sampling), timeout=180) for each in PROMPTS)
    )
    return [
        (each.completions[0].text, each.completions[0].token_count, each.completions[0].finish_reason)
        for each in replies
    ]


async def scores(stub: Stub, model: str, context: str) -> list[tuple[float, bool, int]]:
    request = generation_pb2.ScoreContinuationsRequest(model=model, prompt=context, continuations=CONTINUATIONS)
    reply = await stub.ScoreContinuations(request, timeout=60)
    return [(each.log_likelihood, each.is_greedy, each.token_count) for each in reply.scores]


async def test_greedy_answers_and_scores_are_those_of_our_own_engine(stub: Stub, models: dict[str, str]) -> None:
    assert await answers(stub, models["vllm"]) == await answers(stub, models["transformers"])
    stops = ["e", "\n"]
    assert await answers(stub, models["vllm"], stop=stops) == await answers(stub, models["transformers"], stop=stops)
    for context in [*PROMPTS, ""]:
        ours = await scores(stub, models["transformers"], context)
        theirs = await scores(stub, models["vllm"], context)
        assert [each[1:] for each in theirs] == [each[1:] for each in ours]
        assert [each[0] for each in theirs] == pytest.approx([each[0] for each in ours], abs=1e-3)


async def test_a_seed_repeats_a_sampled_answer(stub: Stub, models: dict[str, str]) -> None:
    first = await answers(stub, models["vllm"], temperature=1.0, seed=3)
    assert await answers(stub, models["vllm"], temperature=1.0, seed=3) == first
    assert await answers(stub, models["vllm"], temperature=1.0, seed=4) != first


def test_a_suite_has_the_same_answers_on_both_engines(
    client: Fleet, vllm_fleet: RunningFleet, tiny_policy: Path
) -> None:
    found = {}
    for engine in ENGINES:
        model = client.models.add(tiny_policy, model_id=f"policy-{engine}", engine=engine).name
        run = client.runs.start(suite="demo", model=model)
        *_, last = client.runs.watch(run.name)
        assert last.run.state is RunState.SUCCEEDED
        found[engine] = {(row.task, row.item, row.sample): _judged(row) for row in _rows(vllm_fleet, run.name)}
    assert len(found["vllm"]) > 20
    assert found["vllm"] == found["transformers"]


def _rows(fleet: RunningFleet, run: str) -> Sequence[aggregation_pb2.Result]:
    with grpc.insecure_channel(fleet.endpoints["aggregation"]) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        request = aggregation_pb2.ListResultsRequest(run=run, page_size=10_000, view=aggregation_pb2.RESULT_VIEW_FULL)
        return stub.ListResults(request, timeout=60).results


def _judged(row: aggregation_pb2.Result) -> tuple[str, str, dict[str, float]]:
    assert row.HasField("scored")
    # Log-likelihoods differ in their last digits; what they decide must not.
    text = "" if row.output.startswith(("[", "{")) else row.output
    return text, row.scored.extracted_answer, {name: round(value, 3) for name, value in row.scored.metrics.items()}


async def test_the_next_checkpoint_of_a_shape_answers_for_itself(
    stub: Stub, client: Fleet, models: dict[str, str], random_checkpoint: Callable[[int], Path]
) -> None:
    theirs = await asyncio.to_thread(client.models.add, random_checkpoint(2), model_id="next-vllm", engine="vllm")
    ours = await asyncio.to_thread(client.models.add, random_checkpoint(2), model_id="next", engine="transformers")
    expected = await answers(stub, ours.name)
    assert await answers(stub, theirs.name) == expected
    # Both at once: they take turns. Another stop text, so that no answer comes from the cache.
    first, second = await asyncio.gather(
        answers(stub, models["vllm"], stop=["zq"]), answers(stub, theirs.name, stop=["zq"])
    )
    assert second == expected
    assert first == await answers(stub, models["transformers"]) != second


async def test_a_caller_who_leaves_ends_the_work_within_100_ms(
    stub: Stub, models: dict[str, str], vllm_metric: Callable[[str], float]
) -> None:
    # The weights may have to come back first, for which vLLM starts anew where they are tied.
    await stub.Generate(generation(models["vllm"], "ready?"), timeout=180)
    before = vllm_metric("evalfleet_engine_cancelled_requests_total")
    # Nothing that ends such an answer: 200 tokens of a random model that gives no end-of-sequence token here.
    calls = [
        stub.Generate(generation(models["vllm"], each, max_tokens=200, stop=["zqz"]), timeout=60) for each in PROMPTS
    ]
    await _until(lambda: vllm_metric("evalfleet_engine_running_sequences") > 0)
    for call in calls:
        call.cancel()
    left = time.monotonic()
    await _until(lambda: vllm_metric("evalfleet_engine_running_sequences") == 0)
    assert time.monotonic() - left < 0.5  # and a margin for a machine that does much else
    generated = vllm_metric("evalfleet_engine_generated_tokens_total")
    reply = await stub.Generate(generation(models["vllm"], "still there", max_tokens=3), timeout=30)
    assert vllm_metric("evalfleet_engine_generated_tokens_total") - generated <= reply.completions[0].token_count
    assert vllm_metric("evalfleet_engine_cancelled_requests_total") > before


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - Triton tells its metrics to those who ask only
            await asyncio.sleep(0.005)

"""The checkpoint host inside the real Triton and inside the local host: one process, many checkpoints."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.inference.client import InferenceClient
from services.inference.contract import CausalLMArguments
from services.inference.host_client import CheckpointHostClient
from services.inference.host_contract import HOST_MODEL
from services.inference.sampling import SamplingParameters
from services.runtime.errors import FleetError

pytestmark = pytest.mark.integration

GREEDY = SamplingParameters(temperature=0, max_tokens=16)
TIMEOUT_SECONDS = 60.0


@pytest.fixture(params=["triton", "local"])
def place(request: pytest.FixtureRequest, inference_hosts: Callable[[str], Any]) -> Any:
    return inference_hosts(request.param)


@pytest.fixture
async def client(place: Any) -> AsyncIterator[InferenceClient]:
    async with InferenceClient(place.target, model_control_key=place.key) as client:
        await CheckpointHostClient(client).start(timeout_seconds=TIMEOUT_SECONDS)
        yield client
        await CheckpointHostClient(client).stop(timeout_seconds=TIMEOUT_SECONDS)


async def test_checkpoints_come_and_go_in_one_process(
    client: InferenceClient, checkpoint_factory: Callable[[int], Path]
) -> None:
    host = CheckpointHostClient(client)
    for seed in (7, 8):
        arguments = CausalLMArguments(model=str(checkpoint_factory(seed)))
        report = await host.load(f"m{seed}", arguments, timeout_seconds=TIMEOUT_SECONDS)
    assert report.checkpoints == ("m7", "m8")

    async def ask(name: str) -> str:
        answer = await client.generate(
            HOST_MODEL, "The quick", GREEDY, checkpoint=name, timeout_seconds=TIMEOUT_SECONDS
        )
        scored = await client.score_continuations(
            HOST_MODEL, "The", [" quick", " answer"], checkpoint=name, timeout_seconds=TIMEOUT_SECONDS
        )
        return f"{answer.text} {scored.scores[0].log_likelihood:.3f}"

    mixed = await asyncio.gather(*(ask(f"m{seed}") for seed in (7, 8) * 4))
    assert mixed == mixed[:2] * 4
    assert mixed[0] != mixed[1]
    await host.unload("m7", timeout_seconds=TIMEOUT_SECONDS)
    with pytest.raises(FleetError) as caught:
        await ask("m7")
    assert caught.value.reason == "MODEL_NOT_LOADED"
    assert await ask("m8") == mixed[1]


async def test_operations_need_the_key(client: InferenceClient, place: Any, tiny_checkpoint: Path) -> None:
    async with InferenceClient(place.target, model_control_key="not the key") as stranger:
        with pytest.raises(FleetError) as caught:
            await CheckpointHostClient(stranger).load(
                "m", CausalLMArguments(model=str(tiny_checkpoint)), timeout_seconds=TIMEOUT_SECONDS
            )
        assert (caught.value.code, caught.value.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "MODEL_CONTROL_REFUSED",
        )
    assert (await CheckpointHostClient(client).list(timeout_seconds=TIMEOUT_SECONDS)).checkpoints == ()

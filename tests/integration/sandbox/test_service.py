"""Programs through the scoring service: several samples of an item, and a call whose time is up."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from prometheus_client import CollectorRegistry

from services.runtime.callers import CALLER_KEY
from services.runtime.testing import serve_in_process
from services.scoring.settings import ScoringSettings
from services.scoring.wiring import wire
from tests.patience import LONGEST_WAIT_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]


Stub: TypeAlias = "scoring_pb2_grpc.ScoringServiceAsyncStub"
MUCH = 400
MUCH_METADATA, FEW_METADATA = ((CALLER_KEY, "much"),), ((CALLER_KEY, "few"),)


@asynccontextmanager
async def serving() -> AsyncIterator[Stub]:
    async with (
        wire(ScoringSettings(sandbox_programs=2), CollectorRegistry()) as services,
        serve_in_process(*services) as channel,
    ):
        yield scoring_pb2_grpc.ScoringServiceStub(channel)


def request(*texts: str, k: int = 1, confirm: bool = True) -> scoring_pb2.ScoreRequest:
    made = scoring_pb2.ScoreRequest(
        scorer="scorers/code_execution", samples=scoring_pb2.TextSamples(texts=[f"    {text}\n" for text in texts])
    )
    made.details.update({"prompt": "def f():\n", "tests": "def check(g): assert g() == 1", "entry_point": "f"})
    made.parameters.update({"k": k, "timeout_seconds": 30, "confirm": confirm})
    return made


async def test_samples_are_run_and_a_call_ends_in_time() -> None:
    async with serving() as stub:
        samples = request("return 1", "return 2", "import sys; sys.exit(0)", k=2)
        response = await stub.Score(samples, timeout=LONGEST_WAIT_SECONDS)
        shares = {name: value for name, value in response.metrics.items() if value}
        third = pytest.approx(1 / 3)
        assert shares == {"passed": third, "pass_at_k": pytest.approx(2 / 3), "wrong": third, "exited_early": third}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Score(request("while True: pass"), timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def in_a_stream(stub: Stub, told: Callable[[], None]) -> None:
    """Have many programs run over one stream."""
    items = (
        scoring_pb2.StreamScoreRequest(item_id=str(number), request=request("return 1", confirm=False))
        for number in range(MUCH)
    )
    async for _ in stub.StreamScore(items, metadata=MUCH_METADATA):
        told()


async def in_calls(stub: Stub, told: Callable[[], None]) -> None:
    """Have many programs run, a call each: more than wait at once, so that some are told to come back."""

    async def ask() -> None:
        await stub.Score(request("return 1", confirm=False), metadata=MUCH_METADATA, timeout=LONGEST_WAIT_SECONDS)
        told()

    await asyncio.gather(*(ask() for _ in range(MUCH)), return_exceptions=True)


@pytest.mark.parametrize("ask_much", [in_a_stream, in_calls])
async def test_a_caller_of_many_programs_does_not_keep_one_of_few_waiting(
    ask_much: Callable[[Stub, Callable[[], None]], Awaitable[None]],
) -> None:
    begun, count = asyncio.Event(), 0

    def told() -> None:
        nonlocal count
        count += 1
        begun.set()

    async with serving() as stub:
        much = asyncio.ensure_future(ask_much(stub, told))
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            await begun.wait()
        before = count
        few = [
            stub.Score(request("return 1", confirm=False), metadata=FEW_METADATA, timeout=LONGEST_WAIT_SECONDS)
            for _ in range(5)
        ]
        assert [(await each).metrics["passed"] for each in few] == [1.0] * 5
        # It had every second turn or so, whatever the other had waiting.
        assert count - before < 50
        much.cancel()
        await asyncio.wait([much])

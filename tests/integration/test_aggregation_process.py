"""The real aggregation process, killed while it appends: what it acknowledged is there, and nothing is there twice."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc
import pytest
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc

from services.runtime.channels import open_channel

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "runs/kill"
STREAMS = 4
MESSAGES_A_STREAM = 3
RESULTS_A_MESSAGE = 25
WAIT_SECONDS = 120.0

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"


@dataclass(frozen=True, slots=True)
class Running:
    """A service process and where it listens."""

    process: Process
    address: str


def kill(process: Process) -> None:
    """Kill a process without asking for its state, which would take its exit code away from asyncio."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


async def start(folder: Path, **settings: str) -> Process:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
    environment |= {
        "EVALFLEET_STATE_DIR": str(folder),
        "EVALFLEET_PORT": "0",
        "EVALFLEET_PARENT_PID": str(os.getpid()),
        "EVALFLEET_LOG_FORMAT": "json",
        **settings,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.aggregation", cwd=REPOSITORY, env=environment, stdout=PIPE, stderr=STDOUT
    )


async def address_of(process: Process) -> str:
    """Read the log until the process says that it serves."""
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_SECONDS):
        async for line in process.stdout:
            if line.startswith(b"{") and (event := json.loads(line))["event"] == "serving":
                return str(event["address"])
    raise AssertionError("the service ended before it served")


@asynccontextmanager
async def service(folder: Path, **settings: str) -> AsyncIterator[Running]:
    process = await start(folder, **settings)
    reading: asyncio.Task[bytes] | None = None
    try:
        address = await address_of(process)
        assert process.stdout is not None
        # A full pipe would stop the service.
        reading = asyncio.create_task(process.stdout.read())
        yield Running(process, address)
    finally:
        if process.returncode is None:
            kill(process)
        await process.wait()
        if reading is not None:
            await reading


def result(item: str, attempt: int) -> aggregation_pb2.Result:
    return aggregation_pb2.Result(
        run=RUN,
        task="t",
        item=item,
        scored=aggregation_pb2.Scored(metrics={"acc": 1.0}),
        prompt="p" * 500,
        output=f"attempt {attempt}",
    )


async def send(stub: Stub, items: list[str], attempt: int) -> tuple[int, int]:
    """Send items in one stream of several messages; return what the service acknowledged."""

    async def requests() -> AsyncIterator[aggregation_pb2.AppendResultsRequest]:
        for start in range(0, len(items), RESULTS_A_MESSAGE):
            batch = [result(item, attempt) for item in items[start : start + RESULTS_A_MESSAGE]]
            yield aggregation_pb2.AppendResultsRequest(results=batch)

    response = await stub.AppendResults(requests(), timeout=WAIT_SECONDS)
    assert response.appended_count + response.duplicate_count == len(items)
    return response.appended_count, response.duplicate_count


async def append_until_killed(
    running: Running, first_item: int, attempt: int, acknowledged: dict[str, int]
) -> list[str]:
    """Several streams at once; the process is killed after a few acknowledgements. Return every item that was sent."""
    sent: list[str] = []
    enough = asyncio.Event()

    async def client(index: int) -> None:
        async with open_channel(running.address) as channel:
            stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
            number = first_item + index * 1_000_000
            while True:
                items = [f"{number + offset:09}" for offset in range(MESSAGES_A_STREAM * RESULTS_A_MESSAGE)]
                number += len(items)
                sent.extend(items)
                try:
                    await send(stub, items, attempt)
                except grpc.aio.AioRpcError:
                    return
                acknowledged.update(dict.fromkeys(items, attempt))
                if len(acknowledged) > (attempt + 1) * 2000:
                    enough.set()

    async with asyncio.TaskGroup() as clients:
        for index in range(STREAMS):
            clients.create_task(client(index))
        async with asyncio.timeout(WAIT_SECONDS):
            await enough.wait()
        kill(running.process)
    return sent


async def stored(running: Running) -> list[tuple[str, str]]:
    """Every result that the ledger lists: item and output."""
    found: list[tuple[str, str]] = []
    async with open_channel(running.address) as channel:
        stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        request = aggregation_pb2.ListResultsRequest(run=RUN, page_size=5000)
        while True:
            page = await stub.ListResults(request, timeout=WAIT_SECONDS)
            found += [(each.item, each.output) for each in page.results]
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return found


async def test_what_was_acknowledged_survives_kills_and_nothing_is_there_twice(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    sent: list[str] = []
    for attempt in range(2):
        async with service(tmp_path) as running:
            sent += await append_until_killed(running, attempt * 500_000, attempt, acknowledged)
        assert running.process.returncode == -signal.SIGKILL

    async with service(tmp_path) as running:
        found = await stored(running)
        items = [item for item, _ in found]
        assert len(items) == len(set(items))
        assert acknowledged.keys() <= set(items) <= set(sent)
        async with open_channel(running.address) as channel:
            stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
            appended, duplicates = await send(stub, sent, attempt=99)
        assert (appended, duplicates) == (len(sent) - len(items), len(items))
        after = dict(await stored(running))
    assert after.keys() == set(sent)
    # The first outcome stayed: none that was there before was replaced.
    assert {item: output for item, output in after.items() if item in set(items)} == dict(found)
    assert all(after[item] == f"attempt {attempt}" for item, attempt in acknowledged.items())


async def test_stops_by_sigterm_and_leaves_a_ledger_of_one_file(tmp_path: Path) -> None:
    async with service(tmp_path) as running:
        async with open_channel(running.address) as channel:
            await send(aggregation_pb2_grpc.AggregationServiceStub(channel), ["a"], attempt=0)
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(WAIT_SECONDS):
            assert await running.process.wait() == 0
    assert os.listdir(tmp_path) == ["ledger.sqlite"]


async def test_says_in_one_line_why_it_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("no database " * 1000)
    for settings, hint in (({}, "not a database"), ({"EVALFLEET_LEDGER_URL": "mysql://x/y"}, "sqlite:///")):
        process = await start(tmp_path, **settings)
        async with asyncio.timeout(WAIT_SECONDS):
            output, _ = await process.communicate()
        last = output.decode().strip().splitlines()[-1]
        assert process.returncode == 1
        assert last.startswith("aggregation cannot start: ")
        assert hint in last
        assert "Traceback" not in output.decode()

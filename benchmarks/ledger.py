"""What the ledger takes: results a second, processor time and bytes a result, and what deciding after each block costs.

    python -m benchmarks.ledger --json benchmarks/results/ledger.json

The aggregation service runs in a process of its own on SQLite, every commit on the disk before it is acknowledged. Runs
of results with prompts of about 800 and outputs of about 300 characters are appended over four streams, in messages of
500: the same prompts in every run, as checkpoints of one suite are asked. Then two runs with full texts, few-shot
prompts of about 4,500 and outputs of about 1,700 characters; in the first one every text is new. Then a drawing with a
gate and a precision, steered by the results of the first runs, is drawn and appended in blocks of 32, with a decision
after each, which is what an early-stopping evaluation does; its gate lies at the true mean, so that nothing is decided
before the last item.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Final, TypeAlias

import grpc
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc, drawing_pb2
from evalfleet.common.v1 import common_pb2

from benchmarks.memory import tree_cpu_seconds
from benchmarks.report import installed_versions, this_machine, write_result

Stub: TypeAlias = "aggregation_pb2_grpc.AggregationServiceAsyncStub"
_STREAMS: Final = 4
_RESULTS_A_MESSAGE: Final = 500
_BLOCK: Final = 32
_TASK: Final = "gsm8k"
_WORDS: Final = [f"word{index}" for index in range(5000)]
_START_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Service:
    """A running service: where it listens, its process, and its ledger's file."""

    address: str
    process_id: int
    ledger: Path


@contextmanager
def service() -> Iterator[Service]:
    """Run the aggregation service for the length of the ``with`` block."""
    with tempfile.TemporaryDirectory(prefix="evalfleet-ledger-") as folder:
        ready_file, log_file = Path(folder) / "ready", Path(folder) / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")} | {
            "EVALFLEET_STATE_DIR": folder,
            "EVALFLEET_PORT": "0",
            "EVALFLEET_READY_FILE": str(ready_file),
            "EVALFLEET_PARENT_PID": str(os.getpid()),
        }
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "services.aggregation"], env=environment, stdout=log, stderr=log
            )
        try:
            give_up_at = time.monotonic() + _START_SECONDS
            while not ready_file.exists():
                if process.poll() is not None or time.monotonic() > give_up_at:
                    raise SystemExit(f"the aggregation service did not start:\n{log_file.read_text()}")
                time.sleep(0.05)
            yield Service(ready_file.read_text().strip(), process.pid, Path(folder) / "ledger.sqlite")
        finally:
            process.terminate()
            process.wait()


def results_of(run: str, count: int, *, seed: int) -> list[aggregation_pb2.Result]:
    """Make results: prompts are those of every run, outputs are the run's own."""
    return [_result(run, index, seed) for index in range(count)]


def with_full_texts(results: Sequence[aggregation_pb2.Result]) -> list[aggregation_pb2.Result]:
    """Give results few-shot prompts and long outputs, which begin as before."""
    examples = " ".join(random.Random("examples").choices(_WORDS, k=420))
    for each in results:
        each.prompt = f"{examples} {each.prompt}"
        each.output = f"{each.output} {' '.join(random.Random(each.output).choices(_WORDS, k=160))}"
    return list(results)


def _result(run: str, index: int, seed: int) -> aggregation_pb2.Result:
    prompt, output = random.Random(index), random.Random(f"{seed} {index}")
    ease = prompt.betavariate(0.3, 0.3)
    return aggregation_pb2.Result(
        run=run,
        task=_TASK,
        item=f"item-{index}",
        draw_index=index,
        scored=aggregation_pb2.Scored(metrics={"acc": float(output.random() < ease)}, extracted_answer=str(index)),
        usage=common_pb2.Usage(prompt_tokens=210, completion_tokens=80, computed_prompt_tokens=210),
        judges=[common_pb2.JudgeReference(name="scorers/exact_match", version="1", digest="ab" * 32)],
        model_digest="cd" * 32,
        prompt=" ".join(prompt.choices(_WORDS, k=92)),
        output=" ".join(output.choices(_WORDS, k=35)),
    )


async def append(stub: Stub, results: Sequence[aggregation_pb2.Result]) -> None:
    """Append results over several streams at once."""
    messages = [
        aggregation_pb2.AppendResultsRequest(results=results[start : start + _RESULTS_A_MESSAGE])
        for start in range(0, len(results), _RESULTS_A_MESSAGE)
    ]

    async def stream(part: Sequence[aggregation_pb2.AppendResultsRequest]) -> None:
        async def requests() -> AsyncIterator[aggregation_pb2.AppendResultsRequest]:
            for each in part:
                yield each

        await stub.AppendResults(requests())

    await asyncio.gather(*(stream(messages[index::_STREAMS]) for index in range(_STREAMS)))


async def measure_appends(stub: Stub, running: Service, rounds: int, count: int) -> dict[str, float]:
    """Append a run a round."""
    rates, cpu = [], []
    for index in range(rounds + 1):
        results = results_of(f"runs/full-{index}", count, seed=index)
        await stub.CreateDrawing(iter([_drawing(f"full-{index}", count, [])]))
        await _take_places(stub, results)
        cpu_before, start = tree_cpu_seconds(running.process_id), time.perf_counter()
        await append(stub, results)
        rates.append(count / (time.perf_counter() - start))
        cpu.append((tree_cpu_seconds(running.process_id) - cpu_before) / count)
    return {
        "append_rows_per_second": median(rates[1:]),
        "append_cpu_us_per_row": median(cpu[1:]) * 1e6,
        "bytes_per_row": running.ledger.stat().st_size / count / (rounds + 1),
    }


async def _take_places(stub: Stub, results: Sequence[aggregation_pb2.Result]) -> None:
    """Give results of a run with an order, in canonical order, their places in it."""
    drawn = 0
    while drawn < len(results):
        request = drawing_pb2.DrawItemsRequest(run=results[0].run, task=_TASK, first_draw_index=drawn, count=10_000)
        draws = (await stub.DrawItems(request)).draws
        for each in draws:
            results[each.position].draw_index = each.draw_index
        drawn += len(draws)


async def measure_full_texts(stub: Stub, running: Service, count: int) -> dict[str, float]:
    """Append two runs with the same long prompts; the file's growth is what they take up."""
    figures: dict[str, float] = {}
    for name in ("new", "known"):
        results = with_full_texts(results_of(f"runs/texts-{name}", count, seed=-2 if name == "new" else -3))
        cpu_before, size_before = tree_cpu_seconds(running.process_id), running.ledger.stat().st_size
        start = time.perf_counter()
        await append(stub, results)
        seconds = time.perf_counter() - start
        figures |= {
            f"full_text_{name}_prompts_rows_per_second": count / seconds,
            f"full_text_{name}_prompts_cpu_us_per_row": (tree_cpu_seconds(running.process_id) - cpu_before)
            / count
            * 1e6,
            f"full_text_{name}_prompts_bytes_per_row": (running.ledger.stat().st_size - size_before) / count,
        }
        figures["full_text_message_bytes_per_row"] = sum(each.ByteSize() for each in results) / count
    return figures


async def measure_decisions(stub: Stub, running: Service, count: int) -> dict[str, float]:
    """Draw, append and decide block by block, to the last item."""
    results = results_of("runs/drawn", count, seed=-1)
    mean = sum(each.scored.metrics["acc"] for each in results) / count
    gate = drawing_pb2.Gate(direction=drawing_pb2.GATE_DIRECTION_AT_LEAST, threshold=mean)
    questions = [
        drawing_pb2.Question(gate=gate, alpha=0.01),
        drawing_pb2.Question(precision=drawing_pb2.Precision(half_width=0.02), alpha=0.01),
    ]
    start = time.perf_counter()
    await stub.CreateDrawing(iter([_drawing("drawn", count, questions)]))
    created = time.perf_counter() - start
    draw_seconds, append_seconds = [], []
    cpu_before, index = tree_cpu_seconds(running.process_id), 0
    while index < count:
        start = time.perf_counter()
        request = drawing_pb2.DrawItemsRequest(run="runs/drawn", task=_TASK, first_draw_index=index, count=_BLOCK)
        drawn = await stub.DrawItems(request)
        middle = time.perf_counter()
        block = [results[each.position] for each in drawn.draws]
        for result, each in zip(block, drawn.draws, strict=True):
            result.draw_index = each.draw_index
        await stub.AppendResults(iter([aggregation_pb2.AppendResultsRequest(results=block)]))
        draw_seconds.append(middle - start)
        append_seconds.append(time.perf_counter() - middle)
        index += len(drawn.draws)
    return {
        "drawing_created_seconds": created,
        "draw_block_ms_median": median(draw_seconds) * 1e3,
        "draw_block_ms_p99": quantiles(draw_seconds, n=100)[98] * 1e3,
        "append_block_with_decision_ms_median": median(append_seconds) * 1e3,
        "append_block_with_decision_ms_p99": quantiles(append_seconds, n=100)[98] * 1e3,
        "drawn_cpu_us_per_row": (tree_cpu_seconds(running.process_id) - cpu_before) / count * 1e6,
    }


def _drawing(run: str, count: int, questions: Sequence[drawing_pb2.Question]) -> drawing_pb2.CreateDrawingRequest:
    spec = drawing_pb2.DrawingSpec(
        run=f"runs/{run}",
        task=_TASK,
        metric="acc",
        model=f"models/{run}",
        data_digest="data",
        questions=questions,
        history_mode=drawing_pb2.HISTORY_MODE_AUTO if questions else drawing_pb2.HISTORY_MODE_NONE,
    )
    return drawing_pb2.CreateDrawingRequest(spec=spec, item_ids=[f"item-{index}" for index in range(count)])


async def _measure(running: Service, rounds: int, count: int) -> dict[str, float]:
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub: Stub = aggregation_pb2_grpc.AggregationServiceStub(channel)
        figures = await measure_appends(stub, running, rounds, count)
        figures |= await measure_full_texts(stub, running, count)
        return figures | await measure_decisions(stub, running, count)


def main() -> None:
    """Measure, print the figures and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--rounds", type=int, default=5, help="runs that are appended, after one to warm up")
    parser.add_argument("--results", type=int, default=10_000, help="results a run")
    arguments = parser.parse_args()
    with service() as running:
        figures = asyncio.run(_measure(running, arguments.rounds, arguments.results))
    for name, value in figures.items():
        print(f"{name:>40} {value:12,.2f}")
    if arguments.json:
        write_result(
            arguments.json,
            "ledger",
            figures=figures,
            versions=installed_versions("grpcio", "sqlalchemy", "aiosqlite", "numpy"),
            machine=this_machine(),
            notes=["The load is made on the same cores; append_cpu_us_per_row is the service's process alone."],
        )


if __name__ == "__main__":
    main()

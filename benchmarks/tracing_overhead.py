"""What traces cost a service: 1 KB unary calls to our server with tracing off, sampled at 1 %, and of every call.

    python -m benchmarks.tracing_overhead --json benchmarks/results/tracing.json

Three servers run in processes of their own on one core, the load in this process on another; spans go into a file as
OTLP/JSON. Short rounds alternate among the three, and medians over the rounds of their ratios to the server without
tracing are reported. A call with nothing to do is the worst case: an item has some ten spans, and takes milliseconds.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import grpc

from benchmarks.report import installed_versions, this_machine, write_result
from benchmarks.runtime_overhead import _SERVICE, Reading, _pin, _read, _register
from services.runtime.log_setup import configure_logging
from services.runtime.server import HostedService, serve
from services.runtime.settings import ServiceSettings
from services.runtime.telemetry.setup import TracingOptions, recording_traces

_RATIOS = {"off": None, "sampled": 0.01, "all": 1.0}
_CALLERS = 16


def _serve(kind: str, ready_file: Path) -> None:
    configure_logging(level="info", log_format="json", service="benchmark")
    settings = ServiceSettings(port=0, ready_file=ready_file)
    ratio = _RATIOS[kind]
    traces = ready_file.with_suffix(".traces")
    options = TracingOptions() if ratio is None else TracingOptions(ratio=ratio, file=traces)
    with recording_traces("benchmark", options):
        asyncio.run(serve(settings, [HostedService(_SERVICE, _register)]))


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[str]:
    """Run a server in a process of its own and yield its address."""
    ready_file = folder / f"{kind}.address"
    command = [sys.executable, "-m", "benchmarks.tracing_overhead", f"--serve={kind}", f"--ready-file={ready_file}"]
    with (folder / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    _pin(process.pid, 0)
    try:
        give_up = time.monotonic() + 60
        while not (ready_file.exists() and ready_file.read_text().endswith("\n")):
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"the server did not start:\n{(folder / f'{kind}.log').read_text()}")
            time.sleep(0.05)
        yield ready_file.read_text().strip()
    finally:
        process.kill()
        process.wait()


async def _measure(addresses: dict[str, str], rounds: int, seconds: float) -> dict[str, float]:
    channels = {kind: grpc.aio.insecure_channel(address) for kind, address in addresses.items()}
    kinds = list(channels)
    for kind in kinds:
        await _read(channels[kind], _CALLERS, seconds)  # warm-up
    readings: list[dict[str, Reading]] = []
    for index in range(rounds):
        order = kinds[index % len(kinds) :] + kinds[: index % len(kinds)]
        readings.append({kind: await _read(channels[kind], _CALLERS, seconds) for kind in order})
    for channel in channels.values():
        await channel.close()
    figures: dict[str, float] = {}
    for kind in kinds:
        figures[f"{kind}_calls_per_second"] = median(each[kind].calls_per_second for each in readings)
        figures[f"{kind}_server_cpu_us_per_call"] = median(each[kind].server_cpu_us_per_call for each in readings)
    for kind in kinds[1:]:
        figures[f"{kind}_rate_ratio"] = median(
            each[kind].calls_per_second / each["off"].calls_per_second for each in readings
        )
        figures[f"{kind}_added_cpu_us_per_call"] = median(
            each[kind].server_cpu_us_per_call - each["off"].server_cpu_us_per_call for each in readings
        )
    return figures


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--rounds", type=int, default=31, help="alternating rounds")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round in seconds")
    parser.add_argument("--serve", choices=tuple(_RATIOS), help=argparse.SUPPRESS)
    parser.add_argument("--ready-file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.serve, arguments.ready_file)
        return
    machine = this_machine()  # before this process is confined to one core
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        addresses = {kind: stack.enter_context(_server(kind, Path(name))) for kind in _RATIOS}
        _pin(0, 1)
        figures = asyncio.run(_measure(addresses, arguments.rounds, arguments.seconds))
    for key, value in figures.items():
        print(f"{key:34} {value:10.3f}")
    if arguments.json:
        write_result(
            arguments.json,
            "tracing",
            figures=figures,
            machine=machine,
            versions=installed_versions("grpcio", "opentelemetry-sdk"),
            notes=[
                "our server with all behaviours; off: no tracer; sampled: 1 % of the calls begin a trace; all: every"
                " call has a span, written to a file as OTLP/JSON.",
                f"1 KB unary calls of {_CALLERS} callers; medians over {arguments.rounds} alternating rounds of"
                f" {arguments.seconds} s; the servers on one core, the client on another.",
                f"other work ran on the machine; load average at the end: {os.getloadavg()[0]:.1f}",
            ],
        )


if __name__ == "__main__":
    main()

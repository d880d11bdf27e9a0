"""What the runtime's server costs over a bare grpc.aio server: 1 KB unary calls, one caller and sixteen.

    python -m benchmarks.runtime_overhead --json benchmarks/results/runtime_overhead.json

Each server runs in a process of its own, both on one core, with the load in this process on another. Short rounds
alternate between the two, each pair of rounds gives one ratio, and the median over the pairs is reported. Besides the
rate, the server's CPU time per call counts: other work on the machine disturbs it less. Our server has every behaviour
on and logs every call to a file, as JSON.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, DoubleValue

from benchmarks.report import installed_versions, this_machine, write_result
from services.runtime.log_setup import configure_logging
from services.runtime.server import HostedService, serve
from services.runtime.settings import ServiceSettings

_SERVICE = "evalfleet.benchmark.Echo"
_PAYLOAD = BytesValue(value=bytes(1024))
_CALLERS = (1, 16)
_KINDS = ("bare", "ours")
_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclass(frozen=True, slots=True)
class Reading:
    """One round against one server."""

    calls_per_second: float
    server_cpu_us_per_call: float


async def _echo(request: BytesValue, context: object) -> BytesValue:
    return request


async def _cpu_seconds(request: BytesValue, context: object) -> DoubleValue:
    return DoubleValue(value=time.process_time())


def _register(server: grpc.aio.Server) -> None:
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo, BytesValue.FromString, BytesValue.SerializeToString),
        "CpuSeconds": grpc.unary_unary_rpc_method_handler(
            _cpu_seconds, BytesValue.FromString, DoubleValue.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))


async def _serve_bare(ready_file: Path) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    _register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(ready_file.write_text, f"127.0.0.1:{port}\n")
    await server.wait_for_termination()


def _serve(kind: str, ready_file: Path) -> None:
    if kind == "bare":
        asyncio.run(_serve_bare(ready_file))
    configure_logging(level="info", log_format="json", service="benchmark")
    settings = ServiceSettings(port=0, ready_file=ready_file)
    asyncio.run(serve(settings, [HostedService(_SERVICE, _register)]))


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[str]:
    """Run a server in a process of its own and yield its address."""
    ready_file = folder / f"{kind}.address"
    with (folder / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.runtime_overhead", "--serve", kind, "--ready-file", str(ready_file)],
            stdout=log,
            stderr=log,
        )
        _pin(process.pid, 0)
        try:
            give_up = time.monotonic() + 30
            while not (ready_file.exists() and ready_file.read_text().endswith("\n")):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"the {kind} server did not start:\n{(folder / f'{kind}.log').read_text()}")
                time.sleep(0.05)
            yield ready_file.read_text().strip()
        finally:
            process.kill()
            process.wait()


def _pin(pid: int, index: int) -> None:
    """Keep a process on one of the cores, where there are two: wandering between them is most of the noise."""
    if hasattr(os, "sched_setaffinity") and len(_CORES) > 1:
        os.sched_setaffinity(pid, {_CORES[index]})


async def _read(channel: grpc.aio.Channel, callers: int, seconds: float) -> Reading:
    echo = channel.unary_unary(f"/{_SERVICE}/Echo", BytesValue.SerializeToString, BytesValue.FromString)
    cpu = channel.unary_unary(f"/{_SERVICE}/CpuSeconds", BytesValue.SerializeToString, DoubleValue.FromString)
    cpu_before, start = (await cpu(BytesValue())).value, time.perf_counter()
    end = start + seconds

    async def call_until_end() -> int:
        calls = 0
        while time.perf_counter() < end:
            await echo(_PAYLOAD)
            calls += 1
        return calls

    calls = sum(await asyncio.gather(*(call_until_end() for _ in range(callers))))
    elapsed = time.perf_counter() - start
    cpu_after = (await cpu(BytesValue())).value
    return Reading(calls / elapsed, (cpu_after - cpu_before) / calls * 1e6)


async def _measure(addresses: dict[str, str], rounds: int, seconds: float) -> dict[str, float]:
    channels = {kind: grpc.aio.insecure_channel(address) for kind, address in addresses.items()}
    figures: dict[str, float] = {}
    for callers in _CALLERS:
        for kind in _KINDS:
            await _read(channels[kind], callers, seconds / 2)  # warm-up
        pairs = []
        for index in range(rounds):
            order = _KINDS if index % 2 == 0 else _KINDS[::-1]
            readings = {kind: await _read(channels[kind], callers, seconds) for kind in order}
            pairs.append((readings["bare"], readings["ours"]))
        figures |= _figures(callers, pairs)
    for channel in channels.values():
        await channel.close()
    return figures


def _figures(callers: int, pairs: list[tuple[Reading, Reading]]) -> dict[str, float]:
    suffix = f"{callers}_caller{'s' if callers > 1 else ''}"
    return {
        f"bare_calls_per_second_{suffix}": median(bare.calls_per_second for bare, _ in pairs),
        f"ours_calls_per_second_{suffix}": median(ours.calls_per_second for _, ours in pairs),
        f"rate_ratio_{suffix}": median(ours.calls_per_second / bare.calls_per_second for bare, ours in pairs),
        f"time_overhead_percent_{suffix}": median(
            (bare.calls_per_second / ours.calls_per_second - 1) * 100 for bare, ours in pairs
        ),
        f"bare_server_cpu_us_per_call_{suffix}": median(bare.server_cpu_us_per_call for bare, _ in pairs),
        f"ours_server_cpu_us_per_call_{suffix}": median(ours.server_cpu_us_per_call for _, ours in pairs),
        f"server_cpu_overhead_percent_{suffix}": median(
            (ours.server_cpu_us_per_call / bare.server_cpu_us_per_call - 1) * 100 for bare, ours in pairs
        ),
    }


def _print_table(figures: dict[str, float]) -> None:
    print(f"{'callers':>8} {'bare/s':>9} {'ours/s':>9} {'time':>8} {'bare CPU':>10} {'ours CPU':>10} {'CPU':>8}")
    for callers in _CALLERS:
        suffix = f"{callers}_caller{'s' if callers > 1 else ''}"
        print(
            f"{callers:>8} {figures[f'bare_calls_per_second_{suffix}']:>9.0f}"
            f" {figures[f'ours_calls_per_second_{suffix}']:>9.0f}"
            f" {figures[f'time_overhead_percent_{suffix}']:>+7.1f}%"
            f" {figures[f'bare_server_cpu_us_per_call_{suffix}']:>7.0f} µs"
            f" {figures[f'ours_server_cpu_us_per_call_{suffix}']:>7.0f} µs"
            f" {figures[f'server_cpu_overhead_percent_{suffix}']:>+7.1f}%"
        )


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--rounds", type=int, default=31, help="alternating rounds per number of callers")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round in seconds")
    parser.add_argument("--serve", choices=_KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--ready-file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.serve, arguments.ready_file)
        return
    machine = this_machine()  # before this process is confined to one core
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _server("bare", folder) as bare, _server("ours", folder) as ours:
            _pin(0, 1)
            figures = asyncio.run(_measure({"bare": bare, "ours": ours}, arguments.rounds, arguments.seconds))
    _print_table(figures)
    if arguments.json:
        write_result(
            arguments.json,
            "runtime_overhead",
            figures=figures,
            machine=machine,
            versions=installed_versions("grpcio", "protobuf", "structlog"),
            notes=[
                "bare: a grpc.aio server with the same handler and nothing else; ours: all behaviours on, each call"
                " logged as JSON to a file.",
                f"1 KB unary calls; medians over {arguments.rounds} alternating rounds of {arguments.seconds} s;"
                " both servers on one core, the client on another.",
                f"other work ran on the machine; load average at the end: {os.getloadavg()[0]:.1f}",
            ],
        )


if __name__ == "__main__":
    main()

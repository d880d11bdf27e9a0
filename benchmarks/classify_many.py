"""A million rows through `classify_many`: does the client's memory stay flat, and does a restart lose or double a row?

Starts the safety service with a keyword guard, which needs no inference server, and asks it about generated rows, a
client process for each number of rows. In the middle of the largest ones the service is killed, and started again on
the same port. Every row says by its number what its verdict must be, so that the client counts what is missing, what
came twice and what belongs to another row.

    python -m benchmarks.classify_many [--rows 10000 100000 1000000]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from evalfleet.aio import AsyncFleet
from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Conversation

from benchmarks.report import installed_versions, write_result
from services.runtime.free_ports import free_port

RESULT = Path(__file__).parent / "results" / "classify_many.json"
GUARD = "house-rules"
GUARDS_FILE = f"""
guards:
  - {{name: {GUARD}, kind: keywords, blocklist: house.yaml}}
"""
BLOCKLIST = """
taxonomy: house
taxonomy_version: "1"
categories:
  cats: {title: Names of cats}
rules:
  - {category: cats, phrases: [tom]}
"""
WINDOW = 1024
PATIENCE_SECONDS = 120.0
START_SECONDS = 120.0
_POLL_SECONDS = 0.05


class KeywordSafety(AbstractContextManager["KeywordSafety"]):
    """The safety service as a process, which can be killed and started again on its port.

    Attributes:
        target: ``host:port``.
        starts: how often it was started.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="evalfleet-classify-many-")
        self._port = free_port("127.0.0.1")
        self._process: subprocess.Popen[bytes] | None = None
        self.target = f"127.0.0.1:{self._port}"
        self.starts = 0

    def __enter__(self) -> "KeywordSafety":
        folder = Path(self._folder.name)
        (folder / "guards.yaml").write_text(GUARDS_FILE, encoding="utf-8")
        (folder / "house.yaml").write_text(BLOCKLIST, encoding="utf-8")
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start it and wait until it listens."""
        folder = Path(self._folder.name)
        ready = folder / "ready"
        ready.unlink(missing_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EVALFLEET_")},
            "EVALFLEET_PORT": str(self._port),
            "EVALFLEET_PARENT_PID": str(os.getpid()),
            "EVALFLEET_LOG_LEVEL": "warning",
            # Nobody listens there: the guard that needs an inference server is not asked.
            "EVALFLEET_TRITON_TARGET": "127.0.0.1:1",
            "EVALFLEET_STATE_DIR": str(folder / "state"),
            "EVALFLEET_GUARDS_FILE": str(folder / "guards.yaml"),
            "EVALFLEET_READY_FILE": str(ready),
        }
        with (folder / "safety.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.safety"], env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the safety service did not start:\n{self._log()}")
            time.sleep(_POLL_SECONDS)
        self.starts += 1

    @property
    def cpu_seconds(self) -> float:
        """What it has computed since its last start."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        # Its own time, and the kernel's for it; the field behind the name is the third one.
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """End it at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _log(self) -> str:
        return (Path(self._folder.name) / "safety.log").read_text(encoding="utf-8", errors="replace")[-4000:]


def is_unsafe(number: int) -> bool:
    """Return what the guard must say of a row."""
    return number % 7 == 0


def rows(count: int) -> Iterator[Conversation]:
    """Generate rows of some 15 words; no two are the same."""
    for number in range(count):
        who = "Tom" if is_unsafe(number) else "Bob"
        yield [
            ("user", f"Row {number}: {who} goes to the market, buys bread and milk, and walks home along the river.")
        ]


class Tally:
    """What came back of so many rows; its own memory is a bit a row."""

    def __init__(self, count: int) -> None:
        self._seen = bytearray((count + 7) // 8)
        self._count = count
        self.told = self.doubled = self.wrong = self.failed = 0
        self.resident_mib: list[float] = []

    def note(self, number: int, outcome: Verdict | EvalFleetError) -> None:
        """Count an outcome, and measure memory at every tenth of the rows."""
        self.told += 1
        mask = 1 << (number % 8)
        self.doubled += bool(self._seen[number // 8] & mask)
        self._seen[number // 8] |= mask
        if isinstance(outcome, EvalFleetError):
            self.failed += 1
        elif outcome.decision is not (Decision.UNSAFE if is_unsafe(number) else Decision.SAFE):
            self.wrong += 1
        if self.told % max(1, self._count // 10) == 0:
            self.resident_mib.append(_status_mib("VmRSS"))
            # Whoever started this process may act on it.
            print(self.told, flush=True)

    @property
    def lost(self) -> int:
        """Rows without an outcome."""
        return self._count - sum(each.bit_count() for each in self._seen)


def run_client(target: str, count: int, *, is_async: bool) -> dict[str, float]:
    """Ask about so many rows in this process, and return what came of it."""
    tally = Tally(count)
    started_at, computed_before = time.monotonic(), time.process_time()
    if is_async:
        asyncio.run(_ask_awaited(target, count, tally))
    else:
        with Fleet.connect({"safety": target}) as fleet:
            for number, outcome in fleet.safety.classify_many(
                rows(count), guard=GUARD, window=WINDOW, patience_seconds=PATIENCE_SECONDS
            ):
                tally.note(number, outcome)
    return {
        "rows": count,
        "seconds": time.monotonic() - started_at,
        "client_cpu_us_a_row": (time.process_time() - computed_before) / count * 1e6,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "wrong": tally.wrong,
        "failed": tally.failed,
        "first_tenth_mib": tally.resident_mib[0],
        "end_mib": tally.resident_mib[-1],
        "peak_mib": _status_mib("VmHWM"),
    }


async def _ask_awaited(target: str, count: int, tally: Tally) -> None:
    async with AsyncFleet.connect({"safety": target}) as fleet:
        async for number, outcome in fleet.safety.classify_many(
            rows(count), guard=GUARD, window=WINDOW, patience_seconds=PATIENCE_SECONDS
        ):
            tally.note(number, outcome)


def _status_mib(field: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{field}:")) / 1024


def measure(safety: KeywordSafety, count: int, *, is_async: bool, has_restart: bool) -> Mapping[str, float]:
    """Run a client of so many rows as a process; with a restart, kill the service when half of them are told.

    What the service computed is found where it was not killed.
    """
    computed_before, is_whole = safety.cpu_seconds, not has_restart
    command = [sys.executable, "-m", "benchmarks.classify_many", "--client", safety.target, "--rows", str(count)]
    with subprocess.Popen([*command, *(["--async"] if is_async else [])], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        for line in client.stdout:
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                if is_whole:
                    found["service_cpu_us_a_row"] = (safety.cpu_seconds - computed_before) / count * 1e6
                return found
            if has_restart and 2 * int(line) >= count:
                has_restart = False
                safety.kill()
                safety.start()
    raise RuntimeError(f"the client of {count} rows ended without a result")


def main() -> None:
    """Measure and write the figures; exit with 1 if a row was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--async", dest="is_async", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client:
        print(json.dumps(run_client(arguments.client, arguments.rows[0], is_async=arguments.is_async)))
        return
    figures: dict[str, float] = {}
    with KeywordSafety() as safety:
        for is_async in (False, True):
            for count in arguments.rows:
                is_largest = count == max(arguments.rows)
                found = measure(safety, count, is_async=is_async, has_restart=is_largest)
                name = f"{'async' if is_async else 'sync'}_{count}_rows"
                shown = {key: value for key, value in found.items() if key != "rows"}
                print(name, *(f"{key} {value:g}" for key, value in shown.items()), flush=True)
                figures |= {f"{name}_{key}": value for key, value in shown.items()}
                figures[f"{name}_per_second"] = count / found["seconds"]
            smallest, largest = min(arguments.rows), max(arguments.rows)
            kind = "async" if is_async else "sync"
            figures[f"{kind}_peak_growth_ratio"] = (
                figures[f"{kind}_{largest}_rows_peak_mib"] / figures[f"{kind}_{smallest}_rows_peak_mib"]
            )
        figures["service_starts"] = safety.starts
    write_result(
        arguments.json,
        "classify_many",
        figures=figures,
        versions=installed_versions("grpcio", "protobuf"),
        notes=[
            f"Each client is a process with a window of {WINDOW} rows; its resident memory (RSS) after the first "
            "tenth of the rows, at the end, and at its highest.",
            "Halfway through each client's largest number of rows the service is killed and started again.",
            "CPU time of client and service a row, of the service where it was not killed: other work on the machine "
            "changes it less than rows a second.",
            "The guard looks for a keyword in the service's own process; service and client share the machine.",
        ],
    )
    bad = {
        key: value for key, value in figures.items() if key.endswith(("lost", "doubled", "wrong", "failed")) and value
    }
    if bad:
        sys.exit(f"rows were lost, doubled, wrong or failed: {bad}")


if __name__ == "__main__":
    main()

"""How many programs a second sandboxes run, what starting one costs, and what hostile neighbours do to a program."""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

from services.sandbox.bubblewrap import BubblewrapSandbox
from services.sandbox.contract import Ending, Program, SandboxLimits

_AT_ONCE = 2
_ROUNDS = 3
_STARTS = 15
_NEIGHBOURS = 7
_SOLUTION = Program(
    source="from typing import List\n\ndef total(numbers: List[int]) -> int:\n    return sum(numbers)\n",
    tests="assert total([]) == 0\nassert total([1, 2, 3]) == 6\nassert total(list(range(100))) == 4950\n",
    timeout_seconds=20.0,
)
_NOTHING = Program(source="pass", tests="", timeout_seconds=20.0)
_WORK = Program(source="total = 0\nfor number in range(6_000_000): total += number", tests="", timeout_seconds=60.0)
_HOSTILE = {
    "sleep": "import time\ntime.sleep(600)",
    "busy_loop": "while True: pass",
    "fork_bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory_hog": (
        "import os\nwhile True:\n    child = os.fork()\n    if child == 0:\n        kept = []\n"
        "        while True: kept.append(bytearray(1 << 20))\n    os.waitpid(child, 0)"
    ),
}


async def measure_sandbox(programs: int) -> Mapping[str, float]:
    """Return the figures, named as in the benchmark's result.

    ``sandbox_overhead_ms`` is what a program waits for longer than a bare ``python3 -c pass``, both from start to end
    and one at a time, where a sandbox is ready; ``sandbox_cold_overhead_ms`` where it has to be started first.

    Args:
        programs: how many are run a round.

    Raises:
        RuntimeError: a program did not end as it must.
        SandboxUnavailableError: there are no sandboxes here.
    """
    bare = statistics.median(_bare_seconds() for _ in range(_STARTS))
    cold = await _start_seconds(BubblewrapSandbox(SandboxLimits(), running=1, ready=0))
    warm = await _start_seconds(BubblewrapSandbox(SandboxLimits(), running=1, ready=2))
    figures = {
        "sandboxed_programs_per_second": await _programs_per_second(programs),
        "sandbox_overhead_ms": 1e3 * (warm - bare),
        "sandbox_cold_overhead_ms": 1e3 * (cold - bare),
        "sandbox_warm_run_ms": 1e3 * warm,
        "bare_python_ms": 1e3 * bare,
    }
    alone = await _work_seconds("sleep")
    for name in ("busy_loop", "fork_bomb", "memory_hog"):
        figures[f"neighbour_slowdown_{name}"] = await _work_seconds(name) / alone - 1.0
    return figures


def _bare_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - started


async def _start_seconds(sandbox: BubblewrapSandbox) -> float:
    try:
        await _passed(sandbox, _NOTHING)
        seconds = []
        for _ in range(_STARTS):
            # The pool has filled up again: what is measured is one program that comes by itself.
            await asyncio.sleep(0.3)
            started = time.perf_counter()
            await _passed(sandbox, _NOTHING)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)
    finally:
        await sandbox.close()


async def _programs_per_second(programs: int) -> float:
    sandbox = BubblewrapSandbox(SandboxLimits(), running=_AT_ONCE, ready=_AT_ONCE + 1)
    try:
        await _passed(sandbox, _SOLUTION)
        rates = []
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            await asyncio.gather(*(_passed(sandbox, _SOLUTION) for _ in range(programs)))
            rates.append(programs / (time.perf_counter() - started))
        return statistics.median(rates)
    finally:
        await sandbox.close()


async def _work_seconds(hostile: str) -> float:
    """Return the median time of a computing program while another is beside it all the time."""
    sandbox = BubblewrapSandbox(SandboxLimits(), running=_AT_ONCE, ready=_AT_ONCE)
    try:
        await _passed(sandbox, _NOTHING)
        beside = asyncio.ensure_future(sandbox.run(Program(_HOSTILE[hostile], "", timeout_seconds=600.0)))
        await asyncio.sleep(1.0)
        seconds = [await _passed(sandbox, _WORK) for _ in range(_NEIGHBOURS)]
        if beside.done():
            raise RuntimeError(f"{hostile} ended: {beside.result()}")
        beside.cancel()
        return statistics.median(seconds)
    finally:
        await sandbox.close()


async def _passed(sandbox: BubblewrapSandbox, program: Program) -> float:
    run = await sandbox.run(program)
    if run.ending is not Ending.PASSED:
        raise RuntimeError(f"a program that passes did not: {run}")
    return run.seconds

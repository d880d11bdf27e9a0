"""A program that others keep from running is not the slower for it."""

import asyncio
import os
import sys

import pytest

from services.sandbox import own_time
from services.sandbox.errors import SandboxBusyError
from services.sandbox.own_time import wait_own_time
from services.sandbox.process_tree import ProcessorTime, processor_time_below
from tests.patience import LONGEST_WAIT_SECONDS, until

SECONDS = 0.01


class FakeTimes:
    """Says one time after the other, the last one again and again; ends the program soon after it says that one."""

    def __init__(self, *times: ProcessorTime, ends: bool = False) -> None:
        self.program: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._times = list(times)
        self._ends = ends

    def __call__(self) -> ProcessorTime:
        if len(self._times) > 1:
            return self._times.pop(0)
        if self._ends:
            asyncio.get_running_loop().call_soon(self._end)
        return self._times[0]

    def _end(self) -> None:
        if not self.program.done():
            self.program.set_result(None)


async def test_the_clock_stands_still_while_others_keep_a_program_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stall of this process must not look like a program that never had its time.
    monkeypatch.setattr(own_time, "LONGEST_TIMES", float("inf"))
    times = FakeTimes(ProcessorTime(0, {1: 5}), ProcessorTime(0, {1: 5 + LONGEST_WAIT_SECONDS}), ends=True)
    await wait_own_time([times.program], SECONDS, times)
    assert times.program.done()


async def test_what_waited_before_the_program_came_hides_no_wait_of_what_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_time, "LONGEST_TIMES", float("inf"))
    before = {1: 2 * LONGEST_WAIT_SECONDS}
    times = FakeTimes(ProcessorTime(0, before), ProcessorTime(0, {**before, 2: LONGEST_WAIT_SECONDS}), ends=True)
    await wait_own_time([times.program], SECONDS, times)
    assert times.program.done()


@pytest.mark.parametrize(
    "used",
    [
        pytest.param(ProcessorTime(0, {1: 0}), id="sleeps"),
        pytest.param(ProcessorTime(LONGEST_WAIT_SECONDS, {1: 0}), id="runs"),
        pytest.param(ProcessorTime(LONGEST_WAIT_SECONDS, {1: LONGEST_WAIT_SECONDS}), id="its own processes wait"),
    ],
)
async def test_who_had_its_time_has_no_more(used: ProcessorTime) -> None:
    times = FakeTimes(ProcessorTime(0, {}), used)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await wait_own_time([times.program], SECONDS, times)
    assert not times.program.done()


async def test_of_a_program_that_hardly_ran_nothing_is_said() -> None:
    times = FakeTimes(ProcessorTime(0, {}), ProcessorTime(0, {1: LONGEST_WAIT_SECONDS}))
    with pytest.raises(SandboxBusyError) as caught:
        await wait_own_time([times.program], SECONDS, times)
    assert caught.value.reason == "SANDBOX_BUSY"
    assert caught.value.retry_after_seconds


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
async def test_who_shares_a_core_is_seen_to_wait() -> None:
    core = min(os.sched_getaffinity(0))
    spin = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    spinning = [await asyncio.create_subprocess_exec(sys.executable, "-c", spin) for _ in range(2)]
    try:
        for each in spinning:
            # The kernel counts what ran in ticks: on a busy core the first one may come after a long wait.
            await until(lambda pid=each.pid: max(processor_time_below(pid).waits.values(), default=0) > 0.1)  # type: ignore[misc]
            await until(lambda pid=each.pid: processor_time_below(pid).ran > 0)  # type: ignore[misc]
    finally:
        for each in spinning:
            each.kill()
            await each.wait()
    assert processor_time_below(spinning[0].pid) == ProcessorTime(0, {})

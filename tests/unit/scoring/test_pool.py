"""Heavy scorers judge in processes that can be killed, and whose death costs nobody else anything."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from prometheus_client import CollectorRegistry

from services.runtime.deadlines import bind_deadline
from services.runtime.errors import FleetError, InvalidArgumentError
from services.scoring.admission import Admission
from services.scoring.contract import ScoringItem, TextOutput
from services.scoring.errors import ScorerCrashedError, ScorerMemoryError, ScorerTimeoutError
from services.scoring.judging import Assignment, Judged, Judging
from services.scoring.pool import worker_process
from services.scoring.pool.pool import PoolLimits, ScorerPool
from services.scoring.pool.work import WorkerBugError
from services.scoring.registry import ScorerRegistry
from tests.fakes.heavy_scorer import FakeHeavyScorer, never_ready
from tests.patience import LONGEST_WAIT_SECONDS, until

GIB = 1 << 30
MEMORY_BYTES = 4 * GIB
BOUND = ScorerRegistry([FakeHeavyScorer()]).bind("scorers/fake_heavy", {})


@pytest.fixture
async def pool() -> AsyncIterator[ScorerPool]:
    made = ScorerPool(PoolLimits(workers=1, output_seconds=LONGEST_WAIT_SECONDS, memory_bytes=MEMORY_BYTES))
    yield made
    await made.close()


async def ask(pool: ScorerPool, text: str) -> int:
    """Return the id of the process that judged."""
    score = await pool.score(BOUND, ScoringItem(), TextOutput(text))
    assert score.extracted_answer is not None
    return int(score.extracted_answer)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_judges_in_another_process_and_keeps_it(pool: ScorerPool) -> None:
    pid = await ask(pool, "pid")
    assert pid != os.getpid()
    with pytest.raises(InvalidArgumentError) as caught:
        await ask(pool, "typed")
    assert (caught.value.reason, caught.value.metadata) == ("NOT_THIS_ONE", {"why": "asked"})
    with pytest.raises(WorkerBugError, match="ZeroDivisionError"):
        await ask(pool, "bug")
    with pytest.raises(WorkerBugError, match="SystemExit"):
        await ask(pool, "exit")
    assert await ask(pool, "pid") == pid


async def test_a_process_that_dies_is_replaced_and_its_output_asked_about_once_more(
    pool: ScorerPool, tmp_path: Path
) -> None:
    first = await ask(pool, "pid")
    assert await ask(pool, f"die-once {tmp_path / 'died'}") != first
    assert not is_running(first)
    with pytest.raises(ScorerCrashedError) as caught:
        await ask(pool, "die")
    assert caught.value.metadata["ending"] == "was killed by SIGSEGV"
    await ask(pool, "pid")


async def test_processes_that_died_while_they_were_idle_are_nobodys_fault() -> None:
    pool = ScorerPool(PoolLimits(workers=2))
    pids = set(await asyncio.gather(ask(pool, "pause 0.05"), ask(pool, "pause 0.05")))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(is_running(pid) for pid in pids))
    assert await ask(pool, "pid") not in pids
    await pool.close()


async def test_who_runs_out_of_memory_costs_one_output(pool: ScorerPool) -> None:
    first = await ask(pool, "pid")
    with pytest.raises(ScorerMemoryError, match="EVALFLEET_POOL_WORKER_MEMORY_BYTES") as caught:
        await ask(pool, f"need {2 * MEMORY_BYTES}")
    # What another attempt would not change is no transient error: nobody waits for it.
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert await ask(pool, "pid") != first


async def test_memory_that_outputs_before_kept_costs_no_output(pool: ScorerPool) -> None:
    first = await ask(pool, f"keep {GIB}")
    assert await ask(pool, "pid") == first
    # Another process has room for it.
    second = await ask(pool, f"need {13 * GIB // 4}")
    assert second != first
    assert await ask(pool, "pid") == second


async def test_a_process_that_keeps_much_memory_is_replaced(pool: ScorerPool) -> None:
    first = await ask(pool, f"keep {5 * GIB // 2}")
    assert await ask(pool, "pid") != first
    await until(lambda: not is_running(first))


async def test_a_process_that_hangs_is_killed_when_its_time_is_up() -> None:
    metrics = CollectorRegistry()
    pool = ScorerPool(PoolLimits(workers=1, output_seconds=0.2), metrics=metrics)
    pid = await ask(pool, "pid")
    with pytest.raises(ScorerTimeoutError):
        await ask(pool, "hang")
    assert metrics.get_sample_value("evalfleet_scoring_pool_ended_workers_total", {"cause": "timeout"}) == 1.0
    assert metrics.get_sample_value("evalfleet_scoring_pool_waiting_outputs") == 0.0
    await ask(pool, "pid")
    await pool.close()
    assert not is_running(pid)


async def test_a_process_that_is_never_ready_is_killed_and_holds_nobody_up(
    pool: ScorerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(worker_process, "run_worker", never_ready)
        broken.setattr(worker_process, "_START_SECONDS", 0.2)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            with pytest.raises(ScorerCrashedError) as caught:
                await ask(pool, "pid")
    assert caught.value.metadata["ending"] == "did not start within 0.2 s: was killed by SIGKILL"
    await ask(pool, "pid")


async def test_a_fork_that_does_not_end_holds_nobody_up_and_its_process_is_killed_later(
    pool: ScorerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, killed = threading.Event(), asyncio.Event()

    class StuckProcess:
        """A fake: it is forked when a test says so."""

        def start(self) -> None:
            release.wait(LONGEST_WAIT_SECONDS)

        def kill(self) -> None:
            killed.set()

    with monkeypatch.context() as broken:
        broken.setattr(worker_process, "_CONTEXT", SimpleNamespace(Process=lambda **_: StuckProcess()))
        broken.setattr(worker_process, "_FORK_SECONDS", 0.05)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            with pytest.raises(ScorerCrashedError) as caught:
                await ask(pool, "pid")
            assert caught.value.metadata["ending"] == "could not be forked within 0.05 s"
            assert not killed.is_set()
            release.set()
            await killed.wait()
    await ask(pool, "pid")


async def test_a_fork_that_fails_says_why(pool: ScorerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenProcess:
        """A fake: the machine has no room for it."""

        def start(self) -> None:
            raise OSError("no more processes")

    with monkeypatch.context() as broken:
        broken.setattr(worker_process, "_CONTEXT", SimpleNamespace(Process=lambda **_: BrokenProcess()))
        with pytest.raises(OSError, match="no more processes"):
            await ask(pool, "pid")
    await ask(pool, "pid")


async def test_a_process_ends_with_whoever_waits_for_it(pool: ScorerPool) -> None:
    pid = await ask(pool, "pid")
    asking = asyncio.create_task(ask(pool, "hang"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await ask(pool, "pid") != pid


async def test_the_deadline_of_a_call_holds_in_the_pool(pool: ScorerPool) -> None:
    await ask(pool, "pid")
    judging = Judging(pool, Admission())

    def read(text: str) -> Assignment:
        return Assignment(BOUND, ScoringItem(), TextOutput(text))

    with bind_deadline(0.5):
        fine, late, never_begun = await judging.judge_each(["pid", "hang", "pid"], read)
    assert isinstance(fine, Judged)
    for each in (late, never_begun):
        assert isinstance(each, FleetError)
        assert each.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(await judging.judge("pid", read), Judged)


async def test_closing_ends_all_processes() -> None:
    pool = ScorerPool(PoolLimits(workers=2))
    pids = await asyncio.gather(ask(pool, "pid"), ask(pool, "pid"))
    await pool.close()
    assert not any(is_running(pid) for pid in pids)

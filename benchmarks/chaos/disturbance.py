"""Kills processes of a fleet at moments spread over a run's progress, and notes who takes the run over when."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.chaos.replicas import EvaluationReplica
from services.standalone.postgres_server import PostgresError, PostgresServer
from services.standalone.testing import RunningFleet

EVALUATION = "evaluation"
WORKER = "worker"
"""The evaluation service that works on the run."""
POSTGRES = "postgres"
TRITON = "inference"
SERVICES = ("generation", "safety", "scoring", "aggregation")
_POLL_SECONDS = 0.25
# A supervisor gives a process up that dies five times in a row, each time within half a minute.
# It counts from when a process was healthy; we see one as soon as it has begun to start, which may take a minute.
_QUICK_SECONDS = 90.0
_MOST_QUICK_KILLS = 4


@dataclass(frozen=True, slots=True)
class World:
    """A fleet, the evaluation services beside it that share a list of runs, and the database of that and the ledger."""

    fleet: RunningFleet
    replicas: Sequence[EvaluationReplica]
    server: PostgresServer
    url: str

    @property
    def evaluation_target(self) -> str:
        """All replicas as one gRPC target."""
        return "ipv4:" + ",".join(each.target for each in self.replicas)


@dataclass(frozen=True, slots=True)
class Standing:
    """A run as the database has it: how many results, whether it has ended, who works on it since when."""

    done_count: int
    is_over: bool
    owner: str
    epoch: int
    lease_begin_time: float


@dataclass(slots=True)
class Damage:
    """What was done to a run.

    Attributes:
        kills: how often each kind of process was killed.
        takeover_seconds: from each death of the run's worker until another one had the run.
    """

    kills: Counter[str] = field(default_factory=Counter)
    takeover_seconds: list[float] = field(default_factory=list)


def standing(world: World, run_name: str) -> Standing | None:
    """Read how a run stands; None while the database is away."""
    run_id = run_name.removeprefix("runs/")
    query = (
        "SELECT state, end_time IS NOT NULL AS is_over, lease_owner, lease_epoch, lease_begin_time, "
        "(SELECT count(*) FROM aggregation.results JOIN aggregation.runs USING (run_id) "
        f"WHERE name = '{run_name}') AS done FROM evaluation.runs WHERE run_id = '{run_id}'"
    )
    with suppress(PostgresError):
        (row,) = world.server.query(world.url, query)
        return Standing(
            int(row["done"]),
            row["is_over"] == "t",
            row["lease_owner"],
            int(row["lease_epoch"]),
            float(row["lease_begin_time"] or 0),
        )
    return None


class Disturber:
    """Kills what it is told to, in a random order that a seed fixes, and finds out how long takeovers take.

    Args:
        world: whose processes.
        run_name: the run that goes on meanwhile.
        item_count: of the run.
        victims: what is killed, each as often as it is named: EVALUATION (any), WORKER, POSTGRES, TRITON or one of
            SERVICES.
        seed: of their order.
    """

    def __init__(self, world: World, run_name: str, item_count: int, victims: Sequence[str], *, seed: int) -> None:
        self.damage = Damage()
        self._world = world
        self._run_name = run_name
        self._item_count = item_count
        self._chance = random.Random(seed)
        self._victims = self._chance.sample(list(victims), len(victims))
        self._kill_count = len(self._victims)
        self._seen_since: dict[int, float] = {}
        self._quick_kills: Counter[str] = Counter()
        self._death: tuple[float, int] | None = None

    def disturb(self, timeout_seconds: float) -> None:
        """Kill one after the other, evenly spread over the run's items, until the run has ended.

        Raises:
            TimeoutError: the run did not end.
        """
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            for pid in self._world.fleet.processes.values():
                self._seen_since.setdefault(pid, time.monotonic())
            now = standing(self._world, self._run_name)
            if now is not None:
                self._note_takeover(now)
                if now.is_over:
                    return
                killed = self._kill_count - len(self._victims)
                if self._victims and now.done_count >= (killed + 1) * self._item_count / (self._kill_count + 2):
                    self._kill_next(now)
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{self._run_name} did not end within {timeout_seconds:.0f} s: {now}")
            time.sleep(_POLL_SECONDS)

    def _note_takeover(self, now: Standing) -> None:
        if self._death is not None and now.epoch > self._death[1]:
            self.damage.takeover_seconds.append(now.lease_begin_time - self._death[0])
            self._death = None

    def _kill_next(self, now: Standing) -> None:
        """Kill the first victim that is up and was not killed too often lately."""
        for index, victim in enumerate(self._victims):
            if self._kill(victim, now):
                del self._victims[index]
                self.damage.kills[victim] += 1
                return

    def _kill(self, victim: str, now: Standing) -> bool:
        if victim == POSTGRES:
            self._world.server.kill()
            self._world.server.start()
            return True
        if victim in (EVALUATION, WORKER):
            return self._kill_replica(now, is_worker=victim == WORKER)
        pid = self._world.fleet.processes[victim]
        if not is_alive(pid) or not self._may_die(victim, pid):
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def _kill_replica(self, now: Standing, *, is_worker: bool) -> bool:
        alive = [each for each in self._world.replicas if is_alive(each.pid)]
        at_work = [each for each in alive if f":{each.pid}:" in now.owner]
        choice = at_work if is_worker else alive
        if not choice:
            return False
        replica = self._chance.choice(choice)
        if replica in at_work and self._death is None:
            self._death = (time.time(), now.epoch)
        replica.send(signal.SIGKILL)
        return True

    def _may_die(self, victim: str, pid: int) -> bool:
        now = time.monotonic()
        if now - self._seen_since.get(pid, now) >= _QUICK_SECONDS:
            self._quick_kills[victim] = 0
        if self._quick_kills[victim] >= _MOST_QUICK_KILLS:
            return False
        self._quick_kills[victim] += 1
        return True


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

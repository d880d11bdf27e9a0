"""Many runs with random budgets on several evaluation services, and what each of them has spent in the end."""

import random
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from evalfleet.fleet import Fleet
from evalfleet.goals import Budget, StopReason
from evalfleet.results import Run, RunState

from benchmarks.budgets.costly_triton import DEAREST
from benchmarks.budgets.trivial_fleet import MOST_MICRO_USD_A_SECOND, MOST_MICRO_USD_A_TOKEN, TrivialFleet
from benchmarks.chaos.replicas import EvaluationReplica, lost_block_counts, shared_counts
from benchmarks.overhead.workload import SUITE, expected_score
from services.evaluation.runs.blocks import BLOCK_ITEMS
from services.standalone.postgres_server import PostgresServer

_CONCURRENCIES: Final = (1, 4, 16, 32, 64, 128)
_MEAN_COSTS: Final = {"items": 1.0, "tokens": 68.0, "engine_seconds": 0.2, "cost_micro_usd": 580.0}
_POLL_SECONDS: Final = 0.2
_DEAREST_TOKENS: Final = DEAREST.prompt_tokens + DEAREST.answer_tokens
DEAREST_ITEM: Final[Mapping[str, float]] = {
    "items": 1.0,
    "tokens": float(_DEAREST_TOKENS),
    "engine_seconds": DEAREST.engine_seconds,
    "cost_micro_usd": 1.0
    + DEAREST.engine_seconds * MOST_MICRO_USD_A_SECOND
    + DEAREST.prompt_tokens * MOST_MICRO_USD_A_TOKEN,
}
"""What one item may cost at most, by what is limited."""


@dataclass(frozen=True, slots=True)
class BudgetedRun:
    """A run of the trial, once it has ended.

    Attributes:
        concurrency: items in flight at once.
        taken_count: how often a replica took it up, the first time included.
        lost_block_count: blocks that were taken back from a helper that was lost, as its owners have logged it.
        shared_count: items that helpers have asked, as the last owner knows.
        served: what the inference server says that it has answered: items, tokens, engine seconds.
    """

    run: Run
    concurrency: int
    taken_count: int
    lost_block_count: int
    shared_count: int
    served: Mapping[str, float]

    @property
    def limits(self) -> Mapping[str, float]:
        """What is limited, and to how much."""
        budget = self.run.budget
        told = {name: getattr(budget, name) for name in DEAREST_ITEM}
        return {name: limit for name, limit in told.items() if limit is not None}

    def overshoot(self, name: str) -> float:
        """What the run's own account exceeds the limit by, as a share of what one replica has in flight.

        Items are reserved exactly: of them nothing may be exceeded at all.
        """
        assert self.run.spend is not None
        over = max(0.0, float(getattr(self.run.spend, name)) - self.limits[name])
        return over / (self.concurrency * DEAREST_ITEM[name])

    def served_overshoot(self, name: str) -> float | None:
        """The same by the inference server's account, over what was in flight in the end and wherever it was lost.

        With an owner that dies all that is in flight is lost to the run's account, that of its helpers included; with
        a helper its block. None: the server knows no prices.
        """
        if name not in self.served:
            return None
        over = max(0.0, self.served[name] - self.limits[name])
        in_flight = self.taken_count * self.concurrency + self.lost_block_count * BLOCK_ITEMS
        return over / (in_flight * DEAREST_ITEM[name])

    @property
    def problem(self) -> str:
        """What is wrong with how it ended; empty: nothing."""
        run = self.run
        if run.state is not RunState.SUCCEEDED:
            return f"{run.state}: {run.failure}"
        if run.stop_reason not in (StopReason.BUDGET_EXHAUSTED, StopReason.COMPLETE):
            return f"stopped because {run.stop_reason}"
        if len(run.decisions) != 1 or not 0 <= run.decisions[0].lower <= run.decisions[0].upper <= 1:
            return f"has no honest interval: {run.decisions}"
        return ""

    @property
    def covers(self) -> bool:
        """Whether the interval holds what all items would say."""
        (decision,) = self.run.decisions
        truth = expected_score(decision.item_count)
        return decision.lower - 1e-12 <= truth <= decision.upper + 1e-12


def random_budget(chance: random.Random, item_count: int) -> Budget:
    """One or two limits, each to a share of what all items cost; a few are never reached."""
    limits: dict[str, float] = {}
    for name in chance.sample(sorted(_MEAN_COSTS), chance.choice((1, 1, 2))):
        share = chance.choice((0.02, 0.1, 0.2, 0.3, 0.5, 0.8, 2.0)) * chance.uniform(0.8, 1.2)
        limits[name] = max(1.0, share * item_count * _MEAN_COSTS[name])
    seconds = limits.get("engine_seconds")
    return Budget(
        items=_whole(limits.get("items")),
        tokens=_whole(limits.get("tokens")),
        engine_seconds=seconds,
        cost_micro_usd=_whole(limits.get("cost_micro_usd")),
    )


def _whole(limit: float | None) -> int | None:
    return None if limit is None else round(limit)


class Killer(threading.Thread):
    """Kills one of the replicas whenever so many further runs have ended.

    Args:
        every: runs between two kills.

    Attributes:
        kill_count: so far.
    """

    def __init__(self, replicas: Sequence[EvaluationReplica], chance: random.Random, ended: list[int], every: int):
        super().__init__(name="killer", daemon=True)
        self.kill_count = 0
        self._replicas = replicas
        self._chance = chance
        self._ended = ended
        self._every = every
        self.is_over = threading.Event()

    def run(self) -> None:
        """Kill until told that it is over."""
        while not self.is_over.wait(_POLL_SECONDS / 4):
            if self._ended[0] >= (self.kill_count + 1) * self._every:
                self._chance.choice(self._replicas).send(signal.SIGKILL)
                self.kill_count += 1


def run_trial(
    fleet: TrivialFleet,
    server: PostgresServer,
    url: str,
    replicas: Sequence[EvaluationReplica],
    *,
    runs: int,
    item_count: int,
    kill_every: int,
    seed: int,
    timeout_seconds: float,
) -> tuple[Sequence[BudgetedRun], int]:
    """Start all runs, each through another replica, kill replicas while they go on, and wait for all to end.

    Ends the fleet, since its inference server gives its account then.

    Returns:
        The runs, and how many replicas were killed.

    Raises:
        TimeoutError: not all ended.
    """
    chance = random.Random(seed)
    started: list[tuple[str, Run, int]] = []
    for number in range(runs):
        replica = replicas[number % len(replicas)]
        with Fleet.connect({**fleet.endpoints, "evaluation": replica.target}) as client:
            name = f"checkpoint-{number}"
            model = client.models.add(fleet.new_checkpoint(name)).name
            concurrency = chance.choice(_CONCURRENCIES)
            budget = random_budget(chance, item_count)
            run = client.runs.start(model=model, suite=SUITE, concurrency=concurrency, budget=budget)
            started.append((name, run, concurrency))
    ended = [0]
    killer = Killer(replicas, chance, ended, kill_every)
    killer.start()
    try:
        _wait_for_all(server, url, ended, runs, timeout_seconds)
    finally:
        killer.is_over.set()
        killer.join()
    # One is enough, and it serves again by now even if it was killed last.
    replicas[0].wait_until_serving()
    with Fleet.connect({**fleet.endpoints, "evaluation": replicas[0].target}) as client:
        final = [client.runs.get(run.name) for _, run, _ in started]
    rows = server.query(url, "SELECT run_id, lease_epoch FROM evaluation.runs")
    taken = {f"runs/{row['run_id']}": int(row["lease_epoch"]) for row in rows}
    lost, shared = lost_block_counts(replicas), shared_counts(replicas)
    account = fleet.close()
    return [
        BudgetedRun(
            run,
            concurrency,
            taken[run.name],
            lost.get(run.name, 0),
            shared.get(run.name, 0),
            dict(zip(("items", "tokens", "engine_seconds"), account.get(name, (0.0, 0.0, 0.0)), strict=True)),
        )
        for (name, _, concurrency), run in zip(started, final, strict=True)
    ], killer.kill_count


def _wait_for_all(server: PostgresServer, url: str, ended: list[int], runs: int, timeout_seconds: float) -> None:
    give_up_at = time.monotonic() + timeout_seconds
    while ended[0] < runs:
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{ended[0]} of {runs} runs ended within {timeout_seconds:.0f} s")
        time.sleep(_POLL_SECONDS)
        (row,) = server.query(url, "SELECT count(*) FROM evaluation.runs WHERE end_time IS NOT NULL")
        ended[0] = int(row["count"])

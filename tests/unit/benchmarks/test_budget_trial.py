"""What the trial of budgets takes for lost."""

from types import SimpleNamespace
from typing import Any, cast

from benchmarks.budgets.trial import DEAREST_ITEM, BudgetedRun
from benchmarks.chaos.replicas import lost_block_counts, shared_counts

LOGS = (
    "2026-11-22 [info     ] block_taken_back   block=1 had_holder=True run=runs/a-1\n"
    "2026-11-22 [info     ] block_taken_back   block=2 had_holder=False run=runs/a-1\n"
    "2026-11-22 [info     ] run_shared         items=40 run=runs/a-1\n",
    '{"event": "block_taken_back", "had_holder": true, "run": "runs/a-1"}\n'
    '{"event": "run_shared", "items": 2, "run": "runs/b-2"}\n',
)


def test_only_blocks_of_helpers_that_were_lost_are_lost() -> None:
    replicas: Any = [SimpleNamespace(log=log) for log in LOGS]
    assert lost_block_counts(replicas) == {"runs/a-1": 2}
    assert shared_counts(replicas) == {"runs/a-1": 40, "runs/b-2": 2}


def test_what_was_served_is_measured_by_what_died() -> None:
    budget = SimpleNamespace(items=100, tokens=None, engine_seconds=None, cost_micro_usd=None)
    run = cast("Any", SimpleNamespace(budget=budget))
    # 64 in flight at each of two owners, and a block of 32.
    over = (2 * 64 + 32) * DEAREST_ITEM["items"]
    ended = BudgetedRun(run, 64, 2, 1, 0, {"items": 100 + over / 2})
    assert ended.served_overshoot("items") == 0.5
    assert ended.served_overshoot("cost_micro_usd") is None

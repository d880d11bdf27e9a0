"""The tables of the list of runs, and how a run stands in a row."""

import json
from dataclasses import asdict

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.engine import RowMapping

from services.evaluation.runs import stored_goal
from services.evaluation.runs.budget import Spend
from services.evaluation.runs.record import Run, RunFailure, RunState, StopReason, TaskProgress

METADATA = MetaData()

RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", String(63), primary_key=True),
    Column("suite", String(255), nullable=False),
    Column("suite_digest", String(64), nullable=False),
    Column("model", String(255), nullable=False, index=True),
    Column("model_digest", String(64), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("item_limit", Integer),
    Column("tasks", JSON, nullable=False),
    Column("request_id", String(64), unique=True),
    Column("state", String(16), nullable=False, index=True),
    Column("failure", Text),
    Column("create_time", Float, nullable=False, index=True),
    Column("start_time", Float),
    Column("end_time", Float),
    Column("progress", JSON, nullable=False),
    Column("caller", String(64)),
    Column("priority", Integer, nullable=False),
    # Who works on it, until when (the database's clock), for the how-manieth time, and when that one began.
    Column("lease_owner", String(255)),
    Column("lease_end_time", Float),
    Column("lease_epoch", BigInteger, nullable=False),
    Column("lease_begin_time", Float),
    # What the ledger is told: grows with the epoch and whenever a shard is taken over; earlier versions had none.
    Column("fence", BigInteger),
    Index("ix_runs_caller_lease_begin_time", "caller", "lease_begin_time"),
    Column("goal", JSON),
    Column("decisions", JSON),
    Column("spent", JSON),
    Column("stop_reason", String(32)),
    Column("base_digest", String(64)),
    Column("lineage_digest", String(64)),
    Column("escalation", JSON),
)

RUN_SHARDS = Table(
    "run_shards",
    METADATA,
    Column("run_id", String(63), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("task", String(255), nullable=False),
    Column("first_draw_index", BigInteger, nullable=False),
    Column("draw_count", Integer, nullable=False),
    Column("is_done", Boolean, nullable=False),
    # Outcomes that the ledger has of it.
    Column("scored_count", Integer, nullable=False),
    Column("failed_count", Integer, nullable=False),
    # Who works on it, until when (the database's clock), and for the how-manieth time.
    Column("lease_owner", String(255)),
    Column("lease_end_time", Float),
    Column("lease_epoch", BigInteger, nullable=False),
    # Of items that the aggregation service has drawn: which they are, and what was told of their cost.
    Column("positions", JSON(none_as_null=True)),
    Column("spent", JSON),
)

RUN_HELPERS = Table(
    "run_helpers",
    METADATA,
    # Who waits for blocks of a run that another replica owns, and until when that holds (the database's clock).
    Column("run_id", String(63), primary_key=True),
    Column("helper", String(255), primary_key=True),
    Column("end_time", Float, nullable=False),
)

_LEASE_COLUMNS = tuple(
    RUNS.c[name] for name in ("lease_owner", "lease_end_time", "lease_epoch", "lease_begin_time", "fence")
)
RUN_COLUMNS = tuple(column for column in RUNS.columns if column not in set(_LEASE_COLUMNS))
"""The columns that say what a run is; the others say who works on it."""


def run_to_row(run: Run) -> dict[str, object]:
    """The columns of a run, without those of its lease."""
    return {
        "run_id": run.run_id,
        "suite": run.suite,
        "suite_digest": run.suite_digest,
        "model": run.model,
        "model_digest": run.model_digest,
        "seed": run.seed,
        "concurrency": run.concurrency,
        "item_limit": run.item_limit,
        "tasks": list(run.tasks),
        "request_id": run.request_id,
        "state": run.state.value,
        "failure": None if run.failure is None else json.dumps(asdict(run.failure)),
        "create_time": run.create_time,
        "start_time": run.start_time,
        "end_time": run.end_time,
        "progress": [asdict(each) for each in run.progress],
        "caller": run.caller,
        "priority": run.priority,
        "goal": stored_goal.goal_to_row(run.goal),
        "decisions": [stored_goal.decision_to_row(each) for each in run.decisions],
        "spent": asdict(run.spent),
        "stop_reason": None if run.stop_reason is None else run.stop_reason.value,
        "base_digest": run.base_digest,
        "lineage_digest": run.lineage_digest,
        "escalation": stored_goal.escalation_to_row(run.escalation),
    }


def run_from_row(row: RowMapping) -> Run:
    """The run in a row that has at least ``RUN_COLUMNS``."""
    values = {column.name: row[column] for column in RUN_COLUMNS}
    values["state"] = RunState(values["state"])
    values["tasks"] = tuple(values["tasks"])
    values["failure"] = None if values["failure"] is None else RunFailure(**json.loads(values["failure"]))
    values["progress"] = tuple(TaskProgress(**each) for each in values["progress"])
    # Runs of earlier versions have none of these.
    values["goal"] = stored_goal.goal_from_row(values["goal"] or {})
    values["decisions"] = tuple(stored_goal.decision_from_row(each) for each in values["decisions"] or ())
    values["spent"] = Spend(**(values["spent"] or {}))
    values["stop_reason"] = None if values["stop_reason"] is None else StopReason(values["stop_reason"])
    values["escalation"] = stored_goal.escalation_from_row(values["escalation"])
    return Run(**values)

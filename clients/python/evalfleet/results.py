"""What a fleet answers, as plain immutable values: those of all services but scores and comparisons."""

from evalfleet.estimate_results import (
    CorrectedRate,
    Estimate,
    FailedItem,
    GuardQuality,
    Interval,
    JudgeReference,
    PassRates,
    SetMeasure,
    TaskTotals,
)
from evalfleet.model_results import Model, ModelState
from evalfleet.run_results import Run, RunSnapshot, RunState, TaskProgress
from evalfleet.safety_results import (
    Decision,
    Guard,
    GuardReference,
    HazardCategory,
    HazardScore,
    Policy,
    PolicyHazard,
    RollingVerdict,
    Verdict,
)
from evalfleet.suite_results import Suite, Task, TaskMetric

__all__ = [
    "CorrectedRate",
    "Decision",
    "Estimate",
    "FailedItem",
    "Guard",
    "GuardQuality",
    "GuardReference",
    "HazardCategory",
    "HazardScore",
    "Interval",
    "JudgeReference",
    "Model",
    "ModelState",
    "PassRates",
    "Policy",
    "PolicyHazard",
    "RollingVerdict",
    "Run",
    "RunSnapshot",
    "RunState",
    "SetMeasure",
    "Suite",
    "Task",
    "TaskMetric",
    "TaskProgress",
    "TaskTotals",
    "Verdict",
]

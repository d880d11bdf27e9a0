"""Checks of requests: every violation of a request is reported at once."""

import math
import re
import uuid
from collections.abc import Mapping

from evalfleet.evaluation.v1 import evaluation_pb2

from services.evaluation.runs.budget import Budget
from services.evaluation.runs.drawing_messages import DIRECTIONS_FROM_PROTO
from services.evaluation.runs.gates import Depth, Direction, Gate, GoalWish
from services.evaluation.runs.model_changes import ModelChange
from services.evaluation.runs.record import RunRequest
from services.evaluation.runs.tiers import AUTO, TIERS
from services.runtime.callers import CALLER_RULE, is_caller
from services.runtime.errors import FieldViolation, InvalidArgumentError

CHANGES = {
    ModelChange.UNCHANGED: evaluation_pb2.MODEL_CHANGE_UNCHANGED,
    ModelChange.ADAPTER: evaluation_pb2.MODEL_CHANGE_ADAPTER,
    ModelChange.MINOR: evaluation_pb2.MODEL_CHANGE_MINOR,
    ModelChange.MAJOR: evaluation_pb2.MODEL_CHANGE_MAJOR,
}
CHANGES_FROM_PROTO: Mapping[int, ModelChange] = {number: change for change, number in CHANGES.items()}
_RUN_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_MODEL = re.compile(r"models/[a-z0-9][a-z0-9._-]{0,62}")
_RUN_NAME = re.compile(r"runs/[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LARGEST_CONCURRENCY = 1024
_LARGEST_PRIORITY = 100
_MOST_SAMPLES = 128
_HIGHEST_TEMPERATURE = 2


class Violations:
    """Collects what is wrong with a request."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Note one violation."""
        self._found.append(FieldViolation(field, description))

    def raise_if_any(self) -> None:
        """Raise InvalidArgumentError with all violations, if there are any."""
        if self._found:
            listed = "; ".join(f"{each.field}: {each.description}" for each in self._found)
            raise InvalidArgumentError(listed, reason="INVALID_REQUEST", field_violations=self._found)


def resource_id(name: str, collection: str, *, field: str = "name") -> str:
    """The id in ``collection/id``.

    Raises:
        InvalidArgumentError: ``name`` has another form.
    """
    prefix, _, identifier = name.partition("/")
    violations = Violations()
    if prefix != collection or not identifier or "/" in identifier:
        violations.add(field, f"must have the form {collection}/ID, got {name[:80]!r}")
    violations.raise_if_any()
    return identifier


def checked_caller(name: str, *, field: str) -> str:
    """A caller's name.

    Raises:
        InvalidArgumentError: no caller can have it.
    """
    violations = Violations()
    if not is_caller(name):
        violations.add(field, f"must be {CALLER_RULE}, got {name[:80]!r}")
    violations.raise_if_any()
    return name


def run_request(request: evaluation_pb2.CreateRunRequest, *, needs_model: bool = True) -> RunRequest:
    """The domain's form of a request to start a run, or to plan one, which need not say the model.

    Raises:
        InvalidArgumentError: with one violation a wrong field.
    """
    violations = Violations()
    prefix, _, suite = request.suite.partition("/")
    if prefix != "suites" or not suite:
        violations.add("suite", "must have the form suites/NAME, e.g. suites/demo")
    if (needs_model or request.model) and not _MODEL.fullmatch(request.model):
        violations.add("model", "must have the form models/ID; register a checkpoint with CreateModel first")
    if request.HasField("run_id") and not _RUN_ID.fullmatch(request.run_id):
        violations.add("run_id", "must be 1 to 63 of a-z, 0-9 and -, starting with a letter, not ending with -")
    if request.HasField("item_limit") and request.item_limit < 1:
        violations.add("item_limit", "must be at least 1; leave it out for all items")
    if request.HasField("concurrency") and not 1 <= request.concurrency <= _LARGEST_CONCURRENCY:
        violations.add("concurrency", f"must be from 1 to {_LARGEST_CONCURRENCY}; leave it out for the default")
    if abs(request.priority) > _LARGEST_PRIORITY:
        violations.add("priority", f"must be from -{_LARGEST_PRIORITY} to {_LARGEST_PRIORITY}")
    if request.HasField("request_id") and not is_uuid(request.request_id):
        violations.add("request_id", "must be a UUID")
    wish = _goal_wish(request, violations)
    violations.raise_if_any()
    return RunRequest(
        suite=suite,
        model=request.model,
        run_id=request.run_id if request.HasField("run_id") else None,
        seed=request.seed if request.HasField("seed") else None,
        item_limit=request.item_limit if request.HasField("item_limit") else None,
        tasks=tuple(dict.fromkeys(request.tasks)),
        concurrency=request.concurrency if request.HasField("concurrency") else None,
        request_id=request.request_id if request.HasField("request_id") else None,
        priority=request.priority,
        wish=wish,
    )


def _goal_wish(request: evaluation_pb2.CreateRunRequest, violations: Violations) -> GoalWish:
    for index, gate in enumerate(request.gates):
        if not gate.task:
            violations.add(f"gates[{index}].task", "must name a task of the suite")
        if gate.direction not in DIRECTIONS_FROM_PROTO:
            violations.add(f"gates[{index}].direction", "must be AT_LEAST or AT_MOST")
        if not 0 <= gate.threshold <= 1:
            violations.add(f"gates[{index}].threshold", "must be from 0 to 1")
    if request.HasField("precision") and not 0.001 <= request.precision <= 0.5:
        violations.add("precision", "must be from 0.001 to 0.5; leave it out to run all items")
    if request.HasField("confidence") and not 0.5 <= request.confidence <= 0.9999:
        violations.add("confidence", "must be from 0.5 to 0.9999; leave it out for 0.95")
    if request.previous_run and not _RUN_NAME.fullmatch(request.previous_run):
        violations.add("previous_run", "must have the form runs/ID")
    _check_tier(request, violations)
    if request.HasField("sample_count") and not 1 <= request.sample_count <= _MOST_SAMPLES:
        violations.add("sample_count", f"must be from 1 to {_MOST_SAMPLES}; leave it out for what the tasks say")
    if request.HasField("temperature") and not 0 <= request.temperature <= _HIGHEST_TEMPERATURE:
        violations.add("temperature", f"must be from 0 to {_HIGHEST_TEMPERATURE}; leave it out for what the tasks say")
    budget = budget_of(request.budget, violations)
    return GoalWish(
        gates=tuple(
            Gate(gate.task, DIRECTIONS_FROM_PROTO.get(gate.direction, Direction.AT_LEAST), gate.threshold, gate.metric)
            for gate in request.gates
        ),
        precision=request.precision if request.HasField("precision") else None,
        confidence=request.confidence if request.HasField("confidence") else None,
        budget=budget,
        tier=request.tier,
        uses_history=request.use_history if request.HasField("use_history") else None,
        previous_run=request.previous_run,
        stops_at_failure=request.stop_at_failure if request.HasField("stop_at_failure") else None,
        escalates=request.escalate,
        change=CHANGES_FROM_PROTO.get(request.change),
        depth=Depth(
            sample_count=request.sample_count if request.HasField("sample_count") else None,
            temperature=request.temperature if request.HasField("temperature") else None,
        ),
    )


def budget_of(budget: evaluation_pb2.Budget, violations: Violations) -> Budget:
    """The domain's form of a budget."""
    # Only fields that are set are listed.
    limits = {field.name: value for field, value in budget.ListFields()}
    for name, limit in limits.items():
        if not 0 < limit < math.inf:
            violations.add(f"budget.{name}", "must be above 0; leave it out for no limit")
    return Budget(**limits)


def _check_tier(request: evaluation_pb2.CreateRunRequest, violations: Violations) -> None:
    if request.tier not in ("", *TIERS, AUTO):
        violations.add("tier", f"must be one of {', '.join((*TIERS, AUTO))}")
    if request.escalate and not request.tier:
        violations.add("escalate", f"needs a tier to begin with; {AUTO} leaves it to the suite")
    if request.change and request.change not in CHANGES_FROM_PROTO:
        violations.add("change", "must be UNCHANGED, ADAPTER, MINOR or MAJOR")
    if request.change and request.tier != AUTO:
        violations.add("change", f"is for the tier {AUTO}")


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True

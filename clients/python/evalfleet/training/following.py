"""One checkpoint's way through a fleet: registered, evaluated, read."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

from evalfleet.errors import (
    AbortedError,
    CancelledCallError,
    DeadlineExceededError,
    EndpointError,
    EvalFleetError,
    InternalError,
    ModelLoadError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    SecurityError,
    UnauthenticatedError,
    UnavailableError,
    UnknownError,
)
from evalfleet.fleet import Fleet
from evalfleet.goals import outcome_of
from evalfleet.results import Run, RunState
from evalfleet.training.adapters import parts_of
from evalfleet.training.checkpoint_results import CheckpointResult
from evalfleet.training.evaluation_request import EvaluationRequest
from evalfleet.training.journal import JournalEntry, Stage

# A certificate or a token that is out of date will be renewed: nothing is given up for it, and new connections use it.
_LOCKED_OUT = (SecurityError, UnauthenticatedError)
_UNREACHABLE = (UnavailableError, CancelledCallError, EndpointError, UnknownError, *_LOCKED_OUT)
_PASSING = (*_UNREACHABLE, DeadlineExceededError, ResourceExhaustedError, AbortedError, InternalError)
_REQUEST_NAMES = uuid.UUID("5b0a3c7e-6f0f-4a3d-9d0e-3f5d8a8f2b11")
_LOAD_WAIT_SECONDS = 20.0
_MOST_LOSSES = 3


def is_unreachable(error: Exception) -> bool:
    """Whether the fleet is away, lets nobody in, or something else is where it was: it cannot be asked now."""
    # A service that needs more time says for what; the transport gives no reason.
    silent = isinstance(error, DeadlineExceededError) and error.reason == "DEADLINE_EXCEEDED"
    # With a reason of its own it is about one checkpoint, such as a hub that refuses it.
    shut = isinstance(error, PermissionDeniedError) and error.reason == "PERMISSION_DENIED"
    return silent or shut or isinstance(error, _UNREACHABLE)


def is_passing(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    loading = isinstance(error, ModelLoadError) and error.reason == "MODEL_LOADING"
    return loading or is_unreachable(error) or isinstance(error, _PASSING)


class Follower:
    """Takes checkpoints further, one call a step, in one thread; every repetition is harmless.

    It connects anew after ``disconnect``: a fleet that was started again may listen elsewhere.
    """

    def __init__(
        self,
        request: EvaluationRequest,
        run_name: str,
        connect: Callable[[], Fleet],
        *,
        base: str | None,
        locate: Callable[[str], str],
    ) -> None:
        self._request = request
        self._run_name = run_name
        self._connect = connect
        self._base = base
        self._locate = locate
        self._fleet: Fleet | None = None
        self._previous_run = ""

    def disconnect(self) -> None:
        """Close the connections; the next step opens new ones."""
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None

    def advance(self, entry: JournalEntry) -> CheckpointResult | None:
        """Take a checkpoint as far as it comes now; return its result if it has come to its end.

        Raises:
            EvalFleetError: what the fleet answered; ``is_passing`` says whether to come again.
        """
        self._fleet = self._fleet or self._connect()
        try:
            if not entry.model:
                entry.model = self._registered(self._fleet, entry)
            if not entry.run:
                entry.run = self._started(self._fleet, entry)
                entry.stage = Stage.RUNNING
            run = self._fleet.runs.get(entry.run)
        except NotFoundError as error:
            self._lose(entry, error)
            return None
        if run.state.is_final and run.next_run:
            # The next tier has taken over.
            entry.run = run.next_run
            return None
        return self._result(self._fleet, entry, run) if run.state.is_final else None

    def _registered(self, fleet: Fleet, entry: JournalEntry) -> str:
        parts = parts_of(Path(entry.kept or entry.checkpoint), self._base)
        model = fleet.models.add(
            None if parts.checkpoint is None else self._locate(parts.checkpoint),
            adapter=None if parts.adapter is None else self._locate(parts.adapter),
            hub=parts.hub,
            revision=parts.revision,
            dtype=self._request.dtype,
            engine=self._request.engine,
            timeout_seconds=_LOAD_WAIT_SECONDS,
        )
        return model.name

    def _started(self, fleet: Fleet, entry: JournalEntry) -> str:
        request_id = self._request_id(entry)
        return self._request.start(fleet, entry.model, request_id=request_id, previous_run=self._previous_run).name

    def _request_id(self, entry: JournalEntry) -> str:
        """Name what is asked: equal for a repetition, other for another content of the same step.

        The model's name holds the digest of its content, so a step that is trained and saved again is another one.
        """
        told = [self._run_name, entry.step, entry.model, entry.losses, self._request.as_dict()]
        return str(uuid.uuid5(_REQUEST_NAMES, json.dumps(told, default=str, sort_keys=True)))

    def _lose(self, entry: JournalEntry, error: NotFoundError) -> None:
        """Begin again with a checkpoint that the fleet has forgotten; it may have been set up anew.

        Raises:
            NotFoundError: it was there neither this time nor the last ones, or it never was.
        """
        entry.losses += 1
        if not entry.model or entry.losses > _MOST_LOSSES or error.reason in ("SUITE_NOT_FOUND", "TASK_NOT_FOUND"):
            raise error
        entry.model = entry.run = ""
        entry.stage = Stage.WAITING

    def _result(self, fleet: Fleet, entry: JournalEntry, run: Run) -> CheckpointResult:
        snapshot = fleet.runs.snapshot(run.name)
        if run.state is RunState.SUCCEEDED:
            self._previous_run = run.name
        return CheckpointResult(
            step=entry.step,
            checkpoint=entry.checkpoint,
            model=entry.model,
            run=run.name,
            outcome=outcome_of(run.decisions, len(run.gates)),
            failure="" if run.state is RunState.SUCCEEDED else run.failure or f"the run was {run.state.value}",
            snapshot=snapshot,
        )


def failed_result(entry: JournalEntry, error: Exception) -> CheckpointResult:
    """Say that a checkpoint is given up, and why."""
    message = error.message if isinstance(error, EvalFleetError) else f"{type(error).__name__}: {error}"
    return CheckpointResult(entry.step, entry.checkpoint, entry.model, entry.run, failure=message)

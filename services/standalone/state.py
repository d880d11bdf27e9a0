"""A fleet's state folder: one fleet at a time, and a file that tells clients where it is."""

import fcntl
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from evalfleet.endpoints import STATE_FILE_NAME

from services.runtime.log_files import set_aside
from services.standalone.errors import BadOptionError, FleetAlreadyRunningError
from services.standalone.plan import INFERENCE, FleetPlan
from services.standalone.processes import is_group_alive

PREDECESSOR_SECONDS = 30.0
_LOCK_NAME = "fleet.lock"
_POLL_SECONDS = 0.1


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state folder, which is made if it is missing; the system lets go of it when this process ends.

    Raises:
        FleetAlreadyRunningError: another fleet holds it.
        BadOptionError: the folder cannot be made or written.
    """
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(state_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BadOptionError(f"--state-dir {state_dir} cannot be used: {error.strerror}") from error
    with os.fdopen(handle, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FleetAlreadyRunningError(state_dir, lock.read().strip()) from None
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def wait_for_predecessor(
    state_dir: Path, *, on_wait: Callable[[], None], timeout_seconds: float = PREDECESSOR_SECONDS
) -> None:
    """Wait until the processes of a fleet that was killed have ended; they still hold its ports and databases.

    Call it while holding the state folder, so that what ``fleet.json`` says is of a fleet that is gone.

    Args:
        state_dir: the state folder.
        on_wait: called if there is something to wait for.
        timeout_seconds: longest wait.
    """
    path = state_dir / STATE_FILE_NAME
    try:
        left = [int(each) for each in json.loads(path.read_text(encoding="utf-8"))["processes"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        left = []
    give_up_at = time.monotonic() + timeout_seconds
    if any(is_group_alive(each) for each in left):
        on_wait()
    while any(is_group_alive(each) for each in left) and time.monotonic() < give_up_at:
        time.sleep(_POLL_SECONDS)
    path.unlink(missing_ok=True)


def prepare(plan: FleetPlan, key_path: Path) -> None:
    """Make the processes' folders, keep the logs of the fleet before as ``*.log.1``, and make a model-control key.

    Raises:
        BadOptionError: the state folder cannot be written.
    """
    try:
        for part in plan.parts:
            part.folder.mkdir(parents=True, exist_ok=True)
            part.log_path.parent.mkdir(parents=True, exist_ok=True)
            set_aside(part.log_path)
        _write(key_path, secrets.token_hex(32))
    except OSError as error:
        raise BadOptionError(f"--state-dir {plan.state_dir} cannot be written: {error.strerror}") from error


def describe(plan: FleetPlan, process_ids: Mapping[str, int]) -> str:
    """Return the state file's text: JSON with the supervisor's process id, endpoints, metrics, processes and logs."""
    return json.dumps(
        {
            "version": 1,
            "pid": os.getpid(),
            "state_dir": str(plan.state_dir),
            "inference": plan.inference,
            "endpoints": {("triton" if each.name == INFERENCE else each.name): each.target for each in plan.parts},
            "metrics": {each.name: each.metrics_target for each in plan.parts},
            "processes": dict(process_ids),
            "logs": {each.name: str(each.log_path) for each in plan.parts},
        },
        indent=2,
    )


class StateFile:
    """``fleet.json`` in the state folder, and a copy wherever else it is wanted."""

    def __init__(self, plan: FleetPlan, also: Path | None = None) -> None:
        self._plan = plan
        self._paths = [plan.state_dir / STATE_FILE_NAME] + ([also] if also else [])

    def write(self, process_ids: Mapping[str, int]) -> None:
        """Write it in one step: readers see the whole text or the one before.

        Raises:
            BadOptionError: a path cannot be written.
        """
        for path in self._paths:
            try:
                _write(path, describe(self._plan, process_ids) + "\n")
            except OSError as error:
                raise BadOptionError(f"{path} cannot be written: {error.strerror}") from error

    def remove(self) -> None:
        """Remove it; clients then know that the fleet is gone."""
        for path in self._paths:
            path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)

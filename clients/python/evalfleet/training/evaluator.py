"""Evaluates the checkpoints of a training loop beside it: submitted when saved, collected later, never waited for."""

import atexit
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from evalfleet.fleet import Fleet
from evalfleet.training.checkpoint_results import CheckpointResult, PassedCheckpoint
from evalfleet.training.collector import Collector
from evalfleet.training.evaluation_request import EvaluationRequest
from evalfleet.training.following import Follower
from evalfleet.training.journal import Journal, JournalEntry
from evalfleet.training.ranks import is_main_rank

CAPACITY = 64
POLL_SECONDS = 5.0
_CLOSE_SECONDS = 5.0

_log = logging.getLogger("evalfleet.training")


class CheckpointEvaluator(AbstractContextManager["CheckpointEvaluator"]):
    """Sends checkpoints to a fleet and brings back what it finds, in one thread of its own.

    No method raises into the training loop once this is made, and none but ``wait`` and ``close`` waits for anything.
    While the fleet is away, checkpoints wait and are tried again; what waits or runs is kept in ``journal``, from which
    a trainer that was started again goes on. A retry never makes a second run.

    In a distributed training the main rank alone submits; on the others, and in processes forked from the one that
    began, every method does nothing.
    """

    def __init__(
        self,
        request: EvaluationRequest,
        *,
        run_name: str,
        journal: str | os.PathLike[str] | None = None,
        connect: Callable[[], Fleet] = Fleet.connect,
        base: str | None = None,
        locate: Callable[[str], str] = str,
        keep_folder: str | os.PathLike[str] | None = None,
        capacity: int = CAPACITY,
        poll_seconds: float = POLL_SECONDS,
        on_result: Iterable[Callable[[CheckpointResult], None]] = (),
    ) -> None:
        """Describe what is evaluated; nothing happens before the first checkpoint, or ``resume``.

        Args:
            request: what each checkpoint is asked.
            run_name: of the training; with the step it names a run, so it must be the same when it is resumed.
            journal: file that keeps what is pending; default: nothing outlives the trainer.
            connect: opens connections, in the thread; called again when the fleet was away.
            base: folder or URL of the base of LoRA adapters; default: what each adapter's configuration says.
            locate: turns the path of a folder into the one, or the URL, by which the services see it.
            keep_folder: where checkpoints are linked until they are evaluated, for trainers that remove old ones.
            capacity: most checkpoints that wait or run; further ones are not taken, which is logged.
            poll_seconds: how often runs are asked for.
            on_result: called with each result, in the thread; loggers that are not safe there use ``take_results``.

        Raises:
            ValueError: ``run_name`` is empty, or a number is not above zero.
        """
        if not run_name or capacity < 1 or poll_seconds <= 0:
            raise ValueError("run_name must not be empty, capacity and poll_seconds must be above zero")
        self._collector = Collector(
            Follower(request, run_name, connect, base=base, locate=locate),
            Journal(None if journal is None else Path(journal)),
            None if keep_folder is None else Path(keep_folder),
            poll_seconds=poll_seconds,
            on_result=tuple(on_result),
        )
        self._capacity = capacity
        self._thread: threading.Thread | None = None
        self._owner: int | None = None
        self._is_closed = False
        self._dropped: list[int] = []

    @property
    def gate_failure(self) -> CheckpointResult | None:
        """The first result since this was made of which a gate failed: a reason to stop, for those who want to."""
        return self._collector.gate_failure

    @property
    def last_passed(self) -> PassedCheckpoint | None:
        """The latest checkpoint whose gates all passed, those that an earlier trainer collected included."""
        return self._collector.last_passed

    @property
    def pending_count(self) -> int:
        """How many checkpoints wait or run."""
        return self._collector.pending_count

    @property
    def dropped_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoints were not taken because too many were pending."""
        return tuple(self._dropped)

    def resume(self, from_step: int | None = None) -> None:
        """Go on collecting what an earlier trainer left in the journal.

        Args:
            from_step: at which this training begins. Checkpoints of later steps are of one that was abandoned: their
                results come like others, but are neither ``gate_failure`` nor ``last_passed``.
        """
        self._start(from_step)

    def submit(self, step: int, checkpoint: str | os.PathLike[str]) -> bool:
        """Have a saved checkpoint evaluated, and return at once.

        Args:
            step: the training step that it belongs to.
            checkpoint: folder of a Hugging Face checkpoint, or of a LoRA adapter in peft's format.

        Returns:
            Whether it was taken; false where this process is not the one that submits, too many are pending, or this
            is closed.
        """
        try:
            if not self._start():
                return False
            if self._collector.pending_count >= self._capacity:
                self._dropped.append(step)
                _log.warning("step %d is not evaluated: %d checkpoints are pending already", step, self._capacity)
                return False
            self._collector.add(JournalEntry(uuid.uuid4().hex, step, os.path.abspath(checkpoint)))
        except Exception:  # noqa: BLE001 - whatever it is, the training goes on
            _log.exception("step %d could not be submitted; training goes on", step)
            return False
        return True

    def take_results(self) -> list[CheckpointResult]:
        """Return what was found since the last call, in the order in which it was; never waits."""
        return self._collector.take() if self._owner == os.getpid() else []

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until nothing is pending; false if something still is, or if this process does not collect any more."""
        return self._start() and self._collector.settled.wait(timeout_seconds) and not self.pending_count

    def settle(self, timeout_seconds: float) -> bool:
        """Wait like ``wait``, and return whether to wait no longer: nothing is pending, or nobody collects any more."""
        return self.wait(timeout_seconds) or not self._start()

    def close(self, wait_seconds: float = 0.0) -> None:
        """Wait so long for what is pending, then stop for good; what is still pending stays in the journal."""
        if self._thread is None or self._owner != os.getpid() or self._is_closed:
            return
        self._collector.settled.wait(wait_seconds)
        self._is_closed = True
        self._collector.stop()
        self._thread.join(_CLOSE_SECONDS)
        # A call to a fleet that is away may take longer; what comes of it is a later trainer's.
        self._collector.abandon()
        atexit.unregister(self.close)
        if self.pending_count:
            _log.warning("%d checkpoints are still being evaluated; the journal has them", self.pending_count)

    def __enter__(self) -> "CheckpointEvaluator":
        self.resume()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, from_step: int | None = None) -> bool:
        """Start the thread if this is the process that submits; false in every other one, and when it has ended."""
        if self._owner is not None:
            is_alive = self._thread is not None and self._thread.is_alive()
            return self._owner == os.getpid() and is_alive and not self._is_closed
        if not is_main_rank():
            return False
        self._owner = os.getpid()
        self._collector.read_journal(from_step)
        self._thread = threading.Thread(target=self._collector.run, name="evalfleet-training", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            _log.exception("no thread can be started; checkpoints are not evaluated")
            self._owner = -1
            return False
        atexit.register(self.close)
        return True

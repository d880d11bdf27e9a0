"""The thread behind an evaluator: carries checkpoints to the fleet and results back, whatever becomes of either."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evalfleet.errors import EvalFleetError
from evalfleet.goals import Outcome
from evalfleet.training.checkpoint_results import CheckpointResult, PassedCheckpoint
from evalfleet.training.following import Follower, failed_result, is_passing, is_unreachable
from evalfleet.training.journal import Journal, JournalEntry, Stage
from evalfleet.training.kept_files import forget_files, is_overwritten, keep_files

SHORTEST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
_ABANDON_SECONDS = 5.0

_log = logging.getLogger("evalfleet.training")


@dataclass(slots=True)
class _Open:
    """A checkpoint on its way; it is left alone until ``not_before`` (monotonic seconds)."""

    entry: JournalEntry
    not_before: float = 0.0
    attempts: int = 0


class Collector:
    """Works through checkpoints in rounds; ``add`` and ``take`` may be called from any thread, ``run`` is its own.

    Attributes:
        settled: set while nothing is pending, from the first round on, and when ``run`` has returned.
        gate_failure: the first result with a failed gate.
        last_passed: the latest checkpoint whose gates passed, the journal's included.
    """

    def __init__(
        self,
        follower: Follower,
        journal: Journal,
        keep_folder: Path | None,
        *,
        poll_seconds: float,
        on_result: Sequence[Callable[[CheckpointResult], None]],
    ) -> None:
        self._follower = follower
        self._journal = journal
        self._keep_folder = keep_folder
        self._poll_seconds = poll_seconds
        self._on_result = on_result
        self._lock = threading.Lock()
        self._inbox: deque[JournalEntry] = deque()
        self._open: dict[str, _Open] = {}
        self._ended: deque[tuple[JournalEntry, CheckpointResult]] = deque()
        self._telling = threading.RLock()
        self._is_abandoned = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._unreachable_rounds = 0
        self._journal_fails = False
        self.settled = threading.Event()
        self.gate_failure: CheckpointResult | None = None
        self.last_passed: PassedCheckpoint | None = None

    @property
    def pending_count(self) -> int:
        """How many checkpoints wait or run."""
        return len(self._inbox) + len(self._open)

    def add(self, entry: JournalEntry) -> None:
        """Take a checkpoint on; its files are linked now, because the trainer may remove it with its next one."""
        if self._keep_folder is not None:
            try:
                entry.kept = str(keep_files(Path(entry.checkpoint), self._keep_folder))
            except OSError as error:
                _log.warning("the files of step %d are not kept for the fleet: %s", entry.step, error)
        if self.last_passed is not None and is_overwritten(self.last_passed, entry.checkpoint):
            # The same step, saved anew: other weights are now in the files of those that passed.
            self._forget_passed()
        # Known to a later trainer from now on, whatever the thread is waiting for.
        self._write([entry])
        with self._lock:
            self.settled.clear()
            self._inbox.append(entry)
        self._wake.set()

    def take(self) -> list[CheckpointResult]:
        """Return the results that nobody has taken yet; from then on no later trainer gets them."""
        results = []
        while self._ended:
            entry, result = self._ended.popleft()
            results.append(result)
            if entry.stage is not Stage.DELIVERED:
                entry.stage = Stage.DELIVERED
                self._write([entry])
        return results

    def stop(self) -> None:
        """Have ``run`` return after its current call."""
        self._closing.set()
        self._wake.set()

    def abandon(self) -> None:
        """Have ``run`` tell and write nothing more, whatever its current call comes to."""
        # A callback may hang in there; whoever closes does not.
        is_held = self._telling.acquire(timeout=_ABANDON_SECONDS)
        self._is_abandoned = True
        if is_held:
            self._telling.release()

    def run(self) -> None:
        """Work until ``stop``."""
        try:
            while not self._closing.is_set():
                self._wake.clear()
                self._wake.wait(self._round())
        except Exception:  # noqa: BLE001 - whatever it is, the training goes on
            _log.exception("collecting results has stopped; training goes on without them")
        finally:
            self.settled.set()
            self._follower.disconnect()

    def read_journal(self, from_step: int | None) -> None:
        """Go on with what an earlier trainer left; called once, before the first checkpoint."""
        try:
            entries = self._journal.read(from_step)
        except OSError as error:
            _log.warning("the journal cannot be read, so nothing of an earlier training is collected: %s", error)
            return
        for each in entries:
            if each.stage is not Stage.DELIVERED:
                self._open[each.key] = _Open(each)
            elif each.outcome is Outcome.PASSED:
                self.last_passed = PassedCheckpoint(each.step, each.checkpoint, each.kept)
        if self._open:
            _log.info("going on with %d checkpoints of an earlier training", len(self._open))

    def _round(self) -> float | None:
        """Take everything a step further; return how long to pause, ``None`` until there is something new."""
        self._take_in()
        is_unreachable = False
        # One that makes the fleet go away whenever it is asked for must not be the first every time.
        for each in sorted(self._open.values(), key=lambda each: each.attempts):
            if self._closing.is_set() or each.not_before > time.monotonic():
                continue
            is_unreachable = not self._advance(each)
            if is_unreachable:
                break
        with self._lock:
            if not self._open and not self._inbox:
                self.settled.set()
        if is_unreachable:
            self._unreachable_rounds += 1
            return _backoff(self._unreachable_rounds)
        return self._poll_seconds if self._open else None

    def _take_in(self) -> None:
        """Move new checkpoints to the open ones."""
        while self._inbox:
            with self._lock:
                entry = self._inbox.popleft()
                self._open[entry.key] = _Open(entry)

    def _advance(self, each: _Open) -> bool:
        """Take one checkpoint further; false if the fleet is away."""
        entry, before = each.entry, replace(each.entry)
        result: CheckpointResult | None = None
        problem: Exception | None = None
        try:
            result = self._follower.advance(entry)
        except Exception as error:  # noqa: BLE001 - what this one meets must not keep the others
            problem = error
        with self._telling:
            if self._is_abandoned:
                return True
            is_reachable = self._settle(each, result, problem)
            if entry != before:
                self._write([entry])
        return is_reachable

    def _settle(self, each: _Open, result: CheckpointResult | None, problem: Exception | None) -> bool:
        """Draw the consequences of a step; false if the fleet is away."""
        if problem is not None:
            if is_unreachable(problem):
                self._miss_fleet(problem)
                each.attempts += 1
                each.not_before = time.monotonic() + _backoff(each.attempts)
                return False
            if is_passing(problem):
                self._postpone(each, problem)
                return True
            if not isinstance(problem, EvalFleetError):
                _log.error("step %d cannot be evaluated", each.entry.step, exc_info=problem)
            result = failed_result(each.entry, problem)
        self._find_fleet()
        each.attempts = 0
        if result is not None:
            self._end(each.entry, result)
        return True

    def _postpone(self, each: _Open, error: Exception) -> None:
        each.attempts += 1
        asked = getattr(error, "retry_after_seconds", None) or 0.0
        pause = max(asked, min(_backoff(each.attempts), self._poll_seconds * each.attempts))
        each.not_before = time.monotonic() + pause
        if each.attempts == 1:
            _log.info("step %d waits: %s", each.entry.step, error)

    def _miss_fleet(self, error: Exception) -> None:
        if not self._unreachable_rounds:
            _log.warning("%s; %d checkpoints wait, and training goes on", error, self.pending_count)
        self._follower.disconnect()

    def _find_fleet(self) -> None:
        if self._unreachable_rounds:
            _log.info("the fleet answers again; %d checkpoints are pending", self.pending_count)
        self._unreachable_rounds = 0

    def _end(self, entry: JournalEntry, result: CheckpointResult) -> None:
        """Hand a result over."""
        entry.outcome = result.outcome
        if result.failure:
            _log.warning("step %d was not evaluated: %s", result.step, result.failure)
        if entry.is_abandoned:
            # Told like any other, but it neither stops nor rolls back a training that has gone another way.
            _log.info("step %d was saved before the training began again at an earlier one", result.step)
        elif result.outcome is Outcome.FAILED:
            _log.warning("a gate failed at step %d: %s", result.step, result.run)
            self.gate_failure = self.gate_failure or result
        elif result.outcome is Outcome.PASSED and result.step >= (self.last_passed or (-1,))[0]:
            self._pass(entry)
        if entry.kept and (self.last_passed is None or self.last_passed.kept != entry.kept):
            forget_files(Path(entry.kept))
            entry.kept = ""
        for tell in self._on_result:
            try:
                tell(result)
            except Exception:  # noqa: BLE001 - the callback's own trouble
                _log.exception("a callback failed with the result of step %d", result.step)
        self._ended.append((entry, result))
        del self._open[entry.key]
        if self._on_result:
            entry.stage = Stage.DELIVERED

    def _pass(self, entry: JournalEntry) -> None:
        """Note the latest checkpoint that passed; its files are kept until a later one passes, to be gone back to."""
        before = self.last_passed
        self.last_passed = PassedCheckpoint(entry.step, entry.checkpoint, entry.kept)
        if before is not None and before.kept not in ("", entry.kept):
            forget_files(Path(before.kept))

    def _forget_passed(self) -> None:
        passed, self.last_passed = self.last_passed, None
        if passed is not None and passed.kept:
            forget_files(Path(passed.kept))

    def _write(self, entries: list[JournalEntry]) -> None:
        try:
            self._journal.write(entries)
        except OSError as error:
            if not self._journal_fails:
                _log.warning("the journal cannot be written; a restarted trainer will miss what is pending: %s", error)
            self._journal_fails = True


def _backoff(attempts: int) -> float:
    """Seconds to wait after so many failures in a row; jittered, so that many trainers do not come at once."""
    longest = min(LONGEST_BACKOFF_SECONDS, SHORTEST_BACKOFF_SECONDS * 2.0 ** min(attempts - 1, 10))
    return longest * random.uniform(0.5, 1.0)

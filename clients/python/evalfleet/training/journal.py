"""The checkpoints of a training on their way through a fleet, in a small file that outlives the trainer."""

import enum
import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from evalfleet.goals import Outcome


class Stage(enum.StrEnum):
    """How far a checkpoint has come; DELIVERED ones are remembered for what their gates said."""

    WAITING = "waiting"
    RUNNING = "running"
    DELIVERED = "delivered"


@dataclass(slots=True)
class JournalEntry:
    """One submitted checkpoint.

    Attributes:
        key: of the submission: a step that is saved twice is two submissions.
        step: the training step.
        checkpoint: its folder.
        kept: a folder of links to its files, where the trainer may remove the checkpoint itself; empty for none.
        model: what the fleet calls it, once it is registered.
        run: its run, once it is started.
        losses: how often the fleet had forgotten it.
        outcome: what its gates said, once it is delivered.
        is_abandoned: a training has begun again before its step, so its result says nothing of that one.
    """

    key: str
    step: int
    checkpoint: str
    kept: str = ""
    model: str = ""
    run: str = ""
    losses: int = 0
    stage: Stage = Stage.WAITING
    outcome: Outcome = Outcome.UNDECIDED
    is_abandoned: bool = False


_FIELDS = {each.name for each in fields(JournalEntry)}


class Journal:
    """Entries as lines of JSON; the last line of a key holds. Without a path nothing is kept.

    It survives the end of the process, not that of the machine: nothing waits for the disk. Its methods raise OSError
    where the file system does.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self, from_step: int | None = None) -> list[JournalEntry]:
        """Return what earlier trainers left, oldest first, and write the file anew without what is no longer needed.

        Entries past ``from_step``, at which the training begins, are abandoned; default: none is.
        A line that was cut short by the end of its trainer is skipped.
        """
        if self._path is None or not self._path.is_file():
            return []
        entries: dict[str, JournalEntry] = {}
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = _parsed(line)
            if entry is not None:
                entries[entry.key] = entry
        for entry in entries.values():
            entry.is_abandoned |= from_step is not None and entry.step > from_step
        passed = [each for each in entries.values() if each.outcome is Outcome.PASSED and not each.is_abandoned]
        newest = max(passed, key=lambda each: each.step, default=None)
        needed = [each for each in entries.values() if each.stage is not Stage.DELIVERED or each is newest]
        unfinished = self._path.with_name(f".{self._path.name}.unfinished")
        unfinished.write_text("".join(map(_line, needed)), encoding="utf-8")
        unfinished.replace(self._path)
        return needed

    def write(self, entries: Iterable[JournalEntry]) -> None:
        """Add the state of entries; any thread may."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # What an entry says is read behind the lock, so that the last line is never older than the one before.
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, entries)))


def _line(entry: JournalEntry) -> str:
    return f"{json.dumps(asdict(entry))}\n"


def _parsed(line: str) -> JournalEntry | None:
    try:
        read = json.loads(line)
        entry = JournalEntry(**{name: value for name, value in read.items() if name in _FIELDS})
        entry.stage, entry.outcome = Stage(entry.stage), Outcome(entry.outcome)
    except (ValueError, TypeError, AttributeError):
        return None
    return entry

"""What happened to a run, told once to each watcher, however often it reconnects.

Everything that happens to a run can be read off the run as it stands: which states it has come through, and which of
its questions are decided. A watcher's token therefore names what it was told, and nothing needs to be kept for it: any
replica can go on with it, after any restart.
"""

import base64
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass

from services.evaluation.runs.decisions import Answer, TaskDecision
from services.evaluation.runs.record import Run, RunState
from services.runtime.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class RunEvent:
    """Something that happened: the run came into ``state``, or questions of a task were decided.

    ``key`` is the same whenever and wherever the event is read.
    """

    key: str
    state: RunState | None = None
    decision: TaskDecision | None = None


def events_of(run: Run) -> Sequence[RunEvent]:
    """All that has happened to a run so far, states in their order."""
    events = [RunEvent("pending", state=RunState.PENDING)]
    if run.start_time is not None:
        events.append(RunEvent("running", state=RunState.RUNNING))
    for decision in run.decisions:
        decided = [
            str(index) for index, question in enumerate(decision.questions) if question.answer is not Answer.UNDECIDED
        ]
        if decided:
            events.append(RunEvent(f"decided {decision.task} {' '.join(decided)}", decision=decision))
    if run.state.is_final:
        events.append(RunEvent(run.state.value, state=run.state))
    return events


class Watcher:
    """What one watcher was told already.

    Args:
        token: of an earlier watcher, to go on behind it; empty: nothing was told.

    Raises:
        InvalidArgumentError: INVALID_RESUME_TOKEN: no watcher of this run has had such a token.
    """

    def __init__(self, run: str, token: str) -> None:
        self._run = run
        self._told: Set[str] = _told(run, token) if token else frozenset()

    def news(self, run: Run) -> Sequence[RunEvent]:
        """The events that were not told before; they count as told now."""
        new = [event for event in events_of(run) if event.key not in self._told]
        self._told = self._told | {event.key for event in new}
        return new

    @property
    def token(self) -> str:
        """What goes on behind the events told so far."""
        content = json.dumps([self._run, sorted(self._told)], separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode("ascii")


def _told(run: str, token: str) -> frozenset[str]:
    try:
        its_run, keys = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        if its_run == run and all(isinstance(key, str) for key in keys):
            return frozenset(keys)
    except (ValueError, TypeError):
        pass
    raise InvalidArgumentError(
        "resume_token must be that of an earlier answer for this run; leave it out to be told everything",
        reason="INVALID_RESUME_TOKEN",
    )

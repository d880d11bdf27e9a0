"""A watcher is told everything that happened once, however often it reconnects."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.runs.decisions import Answer, QuestionDecision, TaskDecision
from services.evaluation.runs.events import Watcher, events_of
from services.evaluation.runs.gates import Direction, Gate
from services.evaluation.runs.record import Run, RunState
from services.runtime.errors import InvalidArgumentError

RUN = Run("r", "demo", "sd", "models/tiny", "digest-1", seed=1, concurrency=4, create_time=1.0)


def decision(task: str, *answers: Answer) -> TaskDecision:
    questions = tuple(
        QuestionDecision(Gate(task, Direction.AT_LEAST, 0.5, "m"), 0.05, answer, 10) for answer in answers
    )
    return TaskDecision(task, "m", questions, False, 0.5, 0.4, 0.6, 0.95, "betting", 10, 12, 100, 90)


U, P = Answer.UNDECIDED, Answer.PASSED
HISTORY = [
    RUN,
    dataclasses.replace(RUN, state=RunState.RUNNING, start_time=2.0),
    dataclasses.replace(RUN, state=RunState.RUNNING, start_time=2.0, decisions=(decision("a", U, U),)),
    dataclasses.replace(RUN, state=RunState.RUNNING, start_time=2.0, decisions=(decision("a", P, U),)),
    dataclasses.replace(RUN, state=RunState.RUNNING, start_time=2.0, decisions=(decision("a", P, U), decision("b", P))),
    dataclasses.replace(
        RUN, state=RunState.SUCCEEDED, start_time=2.0, end_time=3.0, decisions=(decision("a", P, P), decision("b", P))
    ),
]


def told(watcher: Watcher, runs: list[Run]) -> list[str]:
    return [event.key for run in runs for event in watcher.news(run)]


def test_states_and_decisions_are_told_as_they_come() -> None:
    assert told(Watcher("r", ""), HISTORY) == [
        "pending",
        "running",
        "decided a 0",
        "decided b 0",
        "decided a 0 1",
        "succeeded",
    ]


def test_who_comes_late_is_told_all_that_still_holds() -> None:
    assert [event.key for event in events_of(HISTORY[-1])] == [
        "pending",
        "running",
        "decided a 0 1",
        "decided b 0",
        "succeeded",
    ]


@given(cuts=st.lists(st.integers(0, len(HISTORY)), max_size=6), seen=st.lists(st.booleans(), min_size=6, max_size=6))
def test_reconnecting_loses_nothing_and_repeats_nothing(cuts: list[int], seen: list[bool]) -> None:
    watcher, heard = Watcher("r", ""), []
    for index, run in enumerate(HISTORY):
        if index in cuts:
            watcher = Watcher("r", watcher.token)
        if seen[index] or index == len(HISTORY) - 1:
            heard += told(watcher, [run])
    assert len(heard) == len(set(heard))
    # Every answer was told: the last word on a task holds all of its decided questions.
    assert {"pending", "running", "succeeded", "decided a 0 1", "decided b 0"} <= set(heard)


@pytest.mark.parametrize("token", ["x", "W10=", "é", Watcher("other", "").token, "WyJyIiwgM10=", "bnVsbA=="])
def test_a_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Watcher("r", token)
    assert caught.value.reason == "INVALID_RESUME_TOKEN"

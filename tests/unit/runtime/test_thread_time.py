"""A thread's own time is what counts, whatever its neighbours and the machine do."""

from collections.abc import Callable

import pytest

from services.runtime import thread_time
from services.runtime.thread_time import ThreadTimeLimit


class FakeClock:
    """The processor time of this thread, as a test says it."""

    def __init__(self) -> None:
        self.now = 100.0

    def thread_time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(thread_time, "time", made)
    return made


def work(clock: FakeClock, needs: float, share: float) -> tuple[Callable[[float], str], list[float]]:
    """Something that takes so much of this thread's time, which is a share of what the process uses meanwhile."""
    told: list[float] = []

    def attempt(seconds: float) -> str:
        told.append(seconds)
        if needs / share > seconds:
            clock.now += seconds * share
            raise TimeoutError
        clock.now += needs
        return "done"

    return attempt, told


def test_the_limit_is_shared_by_all_that_is_done(clock: FakeClock) -> None:
    limit = ThreadTimeLimit(1.0)
    attempt, told = work(clock, 0.5, 1.0)
    assert limit.attempt(attempt) == "done"
    assert limit.left() == 0.5
    assert limit.attempt(attempt) == "done"
    with pytest.raises(TimeoutError):
        limit.attempt(attempt)
    assert told == [1.0, 0.5]


def test_it_begins_with_the_first_question(clock: FakeClock) -> None:
    limit = ThreadTimeLimit(1.0)
    clock.now += 5.0
    assert limit.left() == 1.0


def test_what_takes_too_long_is_not_tried_again(clock: FakeClock) -> None:
    attempt, told = work(clock, 60.0, 0.95)
    with pytest.raises(TimeoutError):
        ThreadTimeLimit(1.0).attempt(attempt)
    assert told == [1.0]


def test_neighbours_use_up_nobodys_time(clock: FakeClock) -> None:
    limit = ThreadTimeLimit(1.0)
    attempt, told = work(clock, 0.75, 0.25)
    assert limit.attempt(attempt) == "done"
    assert told == [1.0, 2.0, 4.0]
    # The attempts that others' work cut short are not charged.
    assert limit.left() == 0.25


def test_a_thread_that_gets_next_to_nothing_gives_up(clock: FakeClock) -> None:
    attempt, told = work(clock, 60.0, 0.01)
    with pytest.raises(TimeoutError):
        ThreadTimeLimit(1.0).attempt(attempt)
    assert told == [1.0, 2.0, 4.0, 8.0]

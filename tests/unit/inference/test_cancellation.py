"""How often a request's caller is asked for."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from services.inference.engines import cancellation
from services.inference.engines.cancellation import CANCEL_CHECK_SECONDS, CancelWatch
from services.inference.engines.seams import Tensors
from services.inference.failures import InferenceFailure

SetTime = Callable[[float], None]


class CountingResponder:
    """A fake way back that counts how often it is asked."""

    def __init__(self) -> None:
        self.questions = 0
        self.is_gone = False

    def send(self, tensors: Tensors) -> None:
        raise AssertionError("nothing is sent here")

    def finish(self, tensors: Tensors | None = None) -> None:
        raise AssertionError("nothing ends here")

    def fail(self, failure: InferenceFailure) -> None:
        raise AssertionError("nothing fails here")

    def is_cancelled(self) -> bool:
        self.questions += 1
        return self.is_gone


@pytest.fixture
def set_time(monkeypatch: pytest.MonkeyPatch) -> SetTime:
    now = 0.0

    def set_time(seconds: float) -> None:
        nonlocal now
        now = seconds

    monkeypatch.setattr(cancellation, "time", SimpleNamespace(monotonic=lambda: now))
    return set_time


@pytest.fixture
def responder() -> CountingResponder:
    return CountingResponder()


def test_a_caller_is_asked_for_at_most_once_an_interval(responder: CountingResponder, set_time: SetTime) -> None:
    watch = CancelWatch(responder)
    for step in range(1000):
        set_time(step * CANCEL_CHECK_SECONDS / 100)
        assert not watch()
    assert 8 <= responder.questions <= 9


def test_one_that_left_is_known_within_an_interval_and_never_asked_for_again(
    responder: CountingResponder, set_time: SetTime
) -> None:
    watch = CancelWatch(responder)
    set_time(CANCEL_CHECK_SECONDS)
    assert not watch()
    responder.is_gone = True
    set_time(1.5 * CANCEL_CHECK_SECONDS)
    assert not watch()
    set_time(2.1 * CANCEL_CHECK_SECONDS)
    assert watch()
    set_time(100 * CANCEL_CHECK_SECONDS)
    assert watch()
    assert responder.questions == 2


def test_the_interval_leaves_room_in_the_promised_tenth_of_a_second() -> None:
    assert CANCEL_CHECK_SECONDS <= 0.05

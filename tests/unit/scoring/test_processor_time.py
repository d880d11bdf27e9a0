"""The bound on the processor time of code that is not ours."""

import re
import signal
import threading
from contextlib import suppress

import pytest

from services.scoring.errors import ProcessorTimeError
from services.scoring.processor_time import processor_time


def _work_on_after_errors() -> None:
    while True:
        with suppress(Exception):
            sum(range(1000))


class _Disposable:
    def __del__(self) -> None:
        _work_on_after_errors()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stops_code_that_drops_exceptions() -> None:
    """Python drops what is raised in a destructor: the first exception ends it, the next one what comes after."""
    with pytest.raises(ProcessorTimeError), processor_time("some", 0.05):
        _work_on_after(_Disposable())


def _work_on_after(disposed: object) -> None:
    del disposed
    _work_on_after_errors()


def test_stops_code_that_takes_errors_for_its_own() -> None:
    with pytest.raises(ProcessorTimeError) as caught, processor_time("some", 0.05):
        _work_on_after_errors()
    assert (caught.value.reason, caught.value.metadata["scorer"]) == ("PROCESSOR_TIME", "some")


def test_stops_a_pattern_of_the_standard_library() -> None:
    with pytest.raises(ProcessorTimeError), processor_time("some", 0.05):
        re.match(r"(a|aa)+$", "a" * 60 + "b")


def test_leaves_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with processor_time("some", 5.0):
        pass
    with pytest.raises(KeyError), processor_time("some", 5.0):
        raise KeyError
    assert signal.getsignal(signal.SIGPROF) is before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_refuses_where_it_could_not_stop_anything() -> None:
    refusals: list[Exception] = []

    def judge() -> None:
        try:
            with processor_time("some", 5.0):
                raise AssertionError
        except RuntimeError as error:
            refusals.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert "main thread" in str(refusals[0])

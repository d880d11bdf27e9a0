"""The rules by which Triton's response senders are used; breaking one of them ends the whole server."""

import threading
from typing import Any

import pytest

from services.inference.triton_models.guarded_sender import GuardedSender
from tests.patience import LONGEST_WAIT_SECONDS

FINAL = 1


class MortalSender:
    """A fake of Triton's sender that dies, as the real one, when it is used after or while its request is ended."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.questions = 0
        self.is_gone = False
        self.is_ended = False
        self.asked = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._busy = threading.Lock()

    def send(self, *response: Any, flags: int = 0) -> None:
        self._live()
        try:
            self.is_ended = flags == FINAL
            self.sent.append((response[0] if response else None, flags))
        finally:
            self._busy.release()

    def is_cancelled(self) -> bool:
        self._live()
        try:
            self.questions += 1
            self.asked.set()
            assert self.may_answer.wait(timeout=LONGEST_WAIT_SECONDS)
            return self.is_gone
        finally:
            self._busy.release()

    def _live(self) -> None:
        assert self._busy.acquire(blocking=False), "SIGSEGV: used by two threads at once"
        assert not self.is_ended, "SIGSEGV: used after the final response"


@pytest.fixture
def sender() -> MortalSender:
    return MortalSender()


@pytest.fixture
def guarded(sender: MortalSender) -> GuardedSender:
    return GuardedSender(sender, FINAL)


def test_responses_and_the_end_pass_through(sender: MortalSender, guarded: GuardedSender) -> None:
    guarded.send("a")
    guarded.end("b")
    assert sender.sent == [("a", 0), ("b", FINAL)]


def test_after_the_end_nothing_is_sent_and_nothing_asked(sender: MortalSender, guarded: GuardedSender) -> None:
    assert not guarded.is_cancelled()
    guarded.end()
    sender.is_gone = True
    guarded.send("late")
    guarded.end("again")
    assert not guarded.is_cancelled()
    assert sender.sent == [(None, FINAL)]
    assert sender.questions == 1


def test_a_caller_that_left_is_not_asked_about_again(sender: MortalSender, guarded: GuardedSender) -> None:
    sender.is_gone = True
    assert guarded.is_cancelled()
    assert guarded.is_cancelled()
    guarded.end()
    assert guarded.is_cancelled()
    assert sender.questions == 1


def test_the_end_waits_for_a_question_on_its_way(sender: MortalSender, guarded: GuardedSender) -> None:
    sender.may_answer.clear()
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(guarded.is_cancelled()))
    asking.start()
    assert sender.asked.wait(timeout=LONGEST_WAIT_SECONDS)
    ending = threading.Thread(target=guarded.end)
    ending.start()
    ending.join(timeout=0.05)
    assert sender.sent == []
    sender.may_answer.set()
    asking.join(timeout=LONGEST_WAIT_SECONDS)
    ending.join(timeout=LONGEST_WAIT_SECONDS)
    assert (answers, sender.sent) == ([False], [(None, FINAL)])


def test_an_end_that_fails_is_an_end(sender: MortalSender, guarded: GuardedSender) -> None:
    class LostError(Exception):
        pass

    def lose(*response: Any, flags: int = 0) -> None:
        raise LostError

    sender.send = lose  # type: ignore[method-assign]
    with pytest.raises(LostError):
        guarded.end()
    assert not guarded.is_cancelled()
    assert sender.questions == 0


def test_many_threads_never_use_a_sender_at_once_or_too_late(sender: MortalSender, guarded: GuardedSender) -> None:
    errors: list[AssertionError] = []
    start = threading.Barrier(6)

    def run(use: Any, times: int) -> None:
        start.wait(timeout=LONGEST_WAIT_SECONDS)
        try:
            for _ in range(times):
                use()
        except AssertionError as error:
            errors.append(error)

    uses = [guarded.is_cancelled] * 4 + [lambda: guarded.send("x")]
    threads = [threading.Thread(target=run, args=(use, 500)) for use in uses]
    threads.append(threading.Thread(target=run, args=(guarded.end, 1)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=LONGEST_WAIT_SECONDS)
    assert errors == []
    assert sender.sent[-1] == (None, FINAL)

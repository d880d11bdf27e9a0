"""Turns go by priority, fairly by caller, and nobody starves."""

from collections import Counter
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.fair_queue import STARVING_SHARE, FairQueue, Ticket
from services.generation.requests import Priority

HIGH, EVALUATION, LOW = Priority.INTERACTIVE, Priority.EVALUATION, Priority.BACKGROUND


def filled(*tickets: Ticket, aging_seconds: float = 10.0) -> FairQueue:
    queue = FairQueue(aging_seconds=aging_seconds)
    for ticket in tickets:
        queue.push(ticket)
    return queue


def callers_in_turn(queue: FairQueue, turns: int, now: float = 0.0) -> list[str]:
    popped = [queue.pop(now) for _ in range(turns)]
    return [ticket.caller for ticket in popped if ticket is not None]


def test_a_higher_priority_goes_first() -> None:
    queue = filled(
        Ticket("a", LOW, 1, 0.0),
        Ticket("b", EVALUATION, 1, 0.0),
        Ticket("c", HIGH, 1, 0.0),
        Ticket("d", EVALUATION, 1, 0.0),
    )
    assert callers_in_turn(queue, 5) == ["c", "b", "d", "a"]


def test_only_interactive_requests_get_the_kept_places() -> None:
    queue = filled(Ticket("a", EVALUATION, 1, 0.0), Ticket("b", HIGH, 1, 0.0))
    first = queue.pop(0.0, interactive_only=True)
    assert first is not None
    assert first.caller == "b"
    assert queue.pop(0.0, interactive_only=True) is None
    assert len(queue) == 1


def test_a_caller_with_a_thousand_requests_does_not_keep_another_waiting() -> None:
    queue = filled(
        *(Ticket("many", EVALUATION, 10, 0.0) for _ in range(1000)),
        *(Ticket("few", EVALUATION, 10, 0.0) for _ in range(3)),
    )
    assert Counter(callers_in_turn(queue, 6)) == {"many": 3, "few": 3}


def test_callers_share_tokens_and_not_requests() -> None:
    queue = filled(
        *(Ticket("long", EVALUATION, 90, 0.0) for _ in range(50)),
        *(Ticket("short", EVALUATION, 10, 0.0) for _ in range(500)),
    )
    turns = Counter(callers_in_turn(queue, 100))
    assert (turns["long"], turns["short"]) == (10, 90)


def test_a_caller_that_was_away_has_saved_up_no_turns() -> None:
    queue = filled(*(Ticket("steady", EVALUATION, 10, 0.0) for _ in range(200)))
    callers_in_turn(queue, 100)
    for _ in range(100):
        queue.push(Ticket("late", EVALUATION, 10, 0.0))
    assert Counter(callers_in_turn(queue, 20)) == {"steady": 10, "late": 10}


def test_a_starving_priority_gets_some_turns_and_no_more() -> None:
    queue = filled(*(Ticket("low", LOW, 1, 0.0) for _ in range(100)))
    served = []
    for _ in range(10 * STARVING_SHARE):
        queue.push(Ticket("high", HIGH, 1, 100.0))
        served += callers_in_turn(queue, 1, now=100.0)
    assert Counter(served) == {"low": 10, "high": 9 * STARVING_SHARE + STARVING_SHARE - 10}


def test_a_priority_that_has_not_waited_long_does_not_push_in() -> None:
    queue = filled(*(Ticket("low", LOW, 1, 95.0) for _ in range(3)))
    for _ in range(5 * STARVING_SHARE):
        queue.push(Ticket("high", HIGH, 1, 100.0))
        assert callers_in_turn(queue, 1, now=100.0) == ["high"]


@settings(deadline=None)
@given(st.data())
def test_whatever_comes_and_goes_each_ticket_leaves_once_and_the_counts_hold(data: st.DataObject) -> None:
    queue, waiting, numbers = FairQueue(aging_seconds=1.0), [], count()
    popped: list[Ticket] = []
    for _ in range(data.draw(st.integers(0, 60))):
        action = data.draw(st.sampled_from(["push", "push", "pop", "discard", "discard again"]))
        if action == "push":
            priority, caller = data.draw(st.sampled_from(Priority)), data.draw(st.sampled_from("abc"))
            ticket = Ticket(caller, priority, data.draw(st.integers(1, 9)), float(next(numbers)))
            queue.push(ticket)
            waiting.append(ticket)
        elif action == "pop":
            found = queue.pop(float(next(numbers)))
            assert (found is None) == (not waiting)
            if found is not None:
                waiting.remove(found)
                popped.append(found)
        elif action == "discard" and waiting:
            queue.discard(waiting.pop(data.draw(st.integers(0, len(waiting) - 1))))
        elif popped:
            queue.discard(popped[-1])
        assert len(queue) == len(waiting)
        for priority in Priority:
            mine = [ticket for ticket in waiting if ticket.priority is priority]
            assert queue.count(priority) == len(mine)
            assert queue.tokens(priority) == sum(ticket.tokens for ticket in mine)
            oldest = min((ticket.queued_at for ticket in mine), default=1000.0)
            assert queue.oldest_wait_seconds(priority, 1000.0) == 1000.0 - oldest
        for caller in "abc":
            assert queue.count_of(caller) == sum(ticket.caller == caller for ticket in waiting)
    assert len(set(map(id, popped))) == len(popped)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=20))
def test_a_request_that_need_not_wait_is_counted_as_if_it_had(passed: list[tuple[str, int]]) -> None:
    waited, passed_by = FairQueue(aging_seconds=10.0), FairQueue(aging_seconds=10.0)
    for caller, tokens in passed:
        waited.push(Ticket(caller, EVALUATION, tokens, 0.0))
        assert waited.pop(0.0) is not None
        passed_by.pass_by(caller, EVALUATION, tokens)
    for queue in (waited, passed_by):
        for caller in "abc":
            for _ in range(5):
                queue.push(Ticket(caller, EVALUATION, 7, 0.0))
    assert callers_in_turn(waited, 15) == callers_in_turn(passed_by, 15)

"""When a verdict on a growing response is due, and how verdicts are told."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.errors import UnavailableError
from services.runtime.item_streams import Outcome
from services.runtime.usage import Usage
from services.safety.errors import invalid_field
from services.safety.judgement import Aspect, Decision, JudgedTurn, Role, Turn, Verdict
from services.safety.judging import Assignment
from services.safety.rolling import GrowingResponse, Judgement, Place, TellingOrder, WorstSoFar
from tests.fakes.guards import FakeGuard

GUARD = FakeGuard()
AWAY = UnavailableError("away", reason="GUARD_UNAVAILABLE")


def assign(text: str) -> Assignment:
    return Assignment(JudgedTurn((Turn(Role.ASSISTANT, text),), 0, Aspect.RESPONSE), (GUARD,))


def growing(every: int = 10, longest: int = 10_000) -> GrowingResponse:
    return GrowingResponse(assign, every_characters=every, longest_characters=longest)


def text_of(judgement: Judgement) -> str:
    assert isinstance(judgement.subject, Assignment)
    return judgement.subject.turn.content


def place_in(judgement: Judgement | None) -> Place:
    assert judgement is not None
    assert judgement.place is not None
    return judgement.place


def test_a_verdict_is_due_when_enough_is_not_judged_yet_and_at_the_end() -> None:
    response = growing(every=5)
    assert response.add("ab", is_last=False) is None
    second = response.add("cdé", is_last=False)
    assert second is not None
    assert (text_of(second), second.place) == ("abcdé", Place(0, 5, False))
    assert response.add("fghi", is_last=False) is None
    last = response.add("", is_last=True)
    assert last is not None
    assert (text_of(last), last.place) == ("abcdéfghi", Place(1, 9, True))


def test_judging_a_long_response_costs_some_nine_times_its_length() -> None:
    response, judged = growing(every=200, longest=10**6), []
    for _ in range(20_000):
        asked = response.add("ten chars.", is_last=False)
        judged += [] if asked is None else [place_in(asked).characters]
    assert judged[:9] == [200, 400, 600, 800, 1000, 1200, 1400, 1600, 1800]
    assert all(later - earlier <= max(200, earlier // 8 + 10) for earlier, later in pairwise(judged))
    assert 8 * 200_000 < sum(judged) < 9.5 * 200_000


def test_a_blank_beginning_is_not_judged_but_a_blank_response_is_asked_for() -> None:
    response = growing(every=2)
    assert response.add("    ", is_last=False) is None
    assert place_in(response.add("x", is_last=False)) == Place(0, 5, False)
    assert place_in(growing().add(" ", is_last=True)).is_final


def test_a_response_that_is_too_long_is_broken_off() -> None:
    response = growing(every=5, longest=8)
    assert place_in(response.add("abcde", is_last=False)) == Place(0, 5, False)
    judgement = response.add("fghi", is_last=False)
    assert place_in(judgement) == Place(1, 5, True)
    assert judgement is not None
    assert getattr(judgement.subject, "reason", "") == "RESPONSE_TOO_LONG"


@given(st.lists(st.text(max_size=12), max_size=20), st.integers(1, 30))
def test_verdicts_cover_the_text_and_only_the_last_is_final(pieces: list[str], every: int) -> None:
    response = growing(every)
    due = [response.add(piece, is_last=False) for piece in pieces]
    due.append(response.add("end", is_last=True))
    given_ = [each for each in due if each is not None]
    whole = "".join(pieces) + "end"
    assert text_of(given_[-1]) == whole
    assert [place_in(each).is_final for each in given_] == [False] * (len(given_) - 1) + [True]
    assert [place_in(each).number for each in given_] == list(range(len(given_)))
    for judgement in given_:
        assert text_of(judgement) == whole[: place_in(judgement).characters]
    arrived, judged = 0, 0
    for piece, asked in zip(pieces, due, strict=False):
        arrived += len(piece)
        judged = judged if asked is None else arrived
        # Never are so many characters unjudged for longer than the piece that brought them, unless all is blank.
        assert arrived - judged < max(every, judged // 8) or not whole[:arrived].strip()
    assert all(place_in(one).characters <= place_in(two).characters for one, two in pairwise(given_))


def outcome(item_id: str, number: int, *, is_final: bool = False) -> Outcome[Verdict]:
    request = Judgement(assign("x"), Place(number, number, is_final))
    return Outcome(item_id, GUARD.saying(Decision.SAFE), request)


@given(st.data())
def test_verdicts_are_told_in_their_order_and_all_of_them(data: st.DataObject) -> None:
    counts = {"a": 4, "b": 3, "c": 1}
    pending = [outcome(each, n, is_final=n == count - 1) for each, count in counts.items() for n in range(count)]
    shuffled = data.draw(st.permutations([*pending, Outcome("whole", GUARD.saying(Decision.SAFE), None)]))
    order = TellingOrder()
    told = [each for one in shuffled for each in order.release(one)]
    assert Counter(each.item_id for each in told) == Counter({**counts, "whole": 1})
    for item_id in counts:
        numbers = [
            place_in(each.request).number
            for each in told
            if each.item_id == item_id and isinstance(each.request, Judgement)
        ]
        assert numbers == sorted(numbers)
    assert (order._next, order._held) == ({}, {})


def test_a_broken_response_keeps_its_place() -> None:
    response = growing(every=2)
    response.add("abc", is_last=False)
    broken = response.break_off(invalid_field("last", "is missing"))
    assert place_in(broken) == Place(1, 3, True)


SAFE, CONTROVERSIAL, UNSAFE, ERROR = Decision.SAFE, Decision.CONTROVERSIAL, Decision.UNSAFE, Decision.ERROR
SEVERITY = [SAFE, CONTROVERSIAL, UNSAFE]


def told_of(*said: Decision | None) -> tuple[list[Decision | None], list[Decision | None]]:
    """Return what is told, and what beside it of the text so far; None is a part that nobody judged."""
    worst = WorstSoFar()
    told = []
    for number, decision in enumerate(said):
        result = AWAY if decision is None else GUARD.saying(decision)
        request = Judgement(assign("x"), Place(number, number, number == len(said) - 1))
        told.append(worst.tell(Outcome("r", result, request)))
    assert worst._worst == {}
    results = [each.outcome.result for each in told]
    return (
        [each.decision if isinstance(each, Verdict) else None for each in results],
        [each.current.decision if each.current else None for each in told],
    )


@pytest.mark.parametrize(
    ("said", "told", "beside"),
    [
        ([SAFE, UNSAFE, SAFE, SAFE], [SAFE, UNSAFE, UNSAFE, UNSAFE], [None, None, SAFE, SAFE]),
        ([CONTROVERSIAL, SAFE], [CONTROVERSIAL, CONTROVERSIAL], [None, SAFE]),
        ([CONTROVERSIAL, UNSAFE, CONTROVERSIAL], [CONTROVERSIAL, UNSAFE, UNSAFE], [None, None, CONTROVERSIAL]),
        # What could not be judged is covered by the next verdict, and never hides an UNSAFE one.
        ([ERROR, SAFE], [ERROR, SAFE], [None, None]),
        ([UNSAFE, ERROR], [UNSAFE, UNSAFE], [None, ERROR]),
        ([CONTROVERSIAL, ERROR], [CONTROVERSIAL, ERROR], [None, None]),
        ([UNSAFE, None, SAFE], [UNSAFE, None, UNSAFE], [None, None, SAFE]),
        ([UNSAFE, None], [UNSAFE, UNSAFE], [None, ERROR]),  # nobody is told that it ended in a mere status
        ([UNSAFE, None, None], [UNSAFE, None, UNSAFE], [None, None, ERROR]),
        ([CONTROVERSIAL, None], [CONTROVERSIAL, None], [None, None]),
        ([SAFE, SAFE], [SAFE, SAFE], [None, None]),
    ],
)
def test_a_verdict_is_never_milder_than_one_before_it(
    said: list[Decision | None], told: list[Decision | None], beside: list[Decision | None]
) -> None:
    assert told_of(*said) == (told, beside)


@given(st.lists(st.sampled_from([SAFE, CONTROVERSIAL, UNSAFE, ERROR, None]), min_size=1, max_size=8))
def test_no_hazard_is_taken_back(said: list[Decision | None]) -> None:
    told, beside = told_of(*said)
    for number, decision in enumerate(told):
        # A status has no decision; where it would be the last word behind a hazard, its reason is told as an ERROR.
        heard = said[number] or (ERROR if beside[number] else None)
        assert (beside[number] or decision) == heard
        before = {each for each in said[:number] if each in SEVERITY}
        if decision in SEVERITY:
            assert all(SEVERITY.index(decision) >= SEVERITY.index(each) for each in before)
        elif decision is ERROR:
            assert UNSAFE not in before


def test_a_verdict_that_is_told_again_has_the_cost_of_the_text_so_far() -> None:
    worst, told = WorstSoFar(), []
    for number, (decision, cost) in enumerate([(UNSAFE, Usage(5)), (SAFE, Usage(7)), (SAFE, Usage(9))]):
        result = replace(GUARD.saying(decision), usage=cost)
        told.append(worst.tell(Outcome("r", result, Judgement(assign("x"), Place(number, number, number == 2)))))
    results = [each.outcome.result for each in told]
    assert [each.usage for each in results if isinstance(each, Verdict)] == [Usage(5), Usage(7), Usage(9)]


def test_responses_and_whole_turns_do_not_touch_each_other() -> None:
    worst = WorstSoFar()
    unsafe, safe = GUARD.saying(UNSAFE), GUARD.saying(SAFE)
    worst.tell(Outcome("a", unsafe, Judgement(assign("x"), Place(0, 1, False))))
    other = worst.tell(Outcome("b", safe, Judgement(assign("x"), Place(0, 1, False))))
    turn = worst.tell(Outcome("c", safe, Judgement(assign("x"))))
    assert [(each.outcome.result, each.current) for each in (other, turn)] == [(safe, None), (safe, None)]

"""Many requests of which some cannot be sent: each has its own outcome, under its own number."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from evalfleet.bulk import answered_batches, answered_items, answered_sendable_items
from evalfleet.errors import EvalFleetError, UnavailableError


def unsendable(text: str) -> EvalFleetError:
    return EvalFleetError(text, reason="OUTPUT_INVALID")


def test_batches_carry_what_can_be_sent_and_results_stay_with_their_requests() -> None:
    asked: list[list[int]] = []

    def ask(some: list[int]) -> list[int]:
        asked.append(some)
        return [-each for each in some]

    bad = unsendable("bad")
    requests: list[int | EvalFleetError] = [1, bad, 2, bad, bad, bad, 3]
    assert answered_batches(iter(requests), ask, largest=3) == [-1, bad, -2, bad, bad, bad, -3]
    assert asked == [[1, 2], [3]]


def test_a_batch_with_another_number_of_results_is_an_error() -> None:
    with pytest.raises(EvalFleetError) as caught:
        answered_batches([1, 2], lambda some: some[:1], largest=2)
    assert caught.value.reason == "WRONG_RESULT_COUNT"


@dataclass(frozen=True)
class FakeOutcome:
    item_id: str


def test_streams_that_end_without_all_outcomes_are_tried_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("evalfleet.bulk.time.monotonic", lambda: 100 + now)
    monkeypatch.setattr("evalfleet.bulk.time.sleep", pause)
    streams = 0

    def exchange(items: Iterator[tuple[int, str]]) -> Iterator[FakeOutcome]:
        nonlocal streams
        streams += 1
        for number, _ in items:
            if number == 0 or streams == forgets + 1:
                yield FakeOutcome(str(number))

    for forgets, patience in ((3, 60), (1_000_000, 5)):
        streams, now = 0, 0.0
        told = answered_items(iter("ab"), exchange, patience_seconds=patience)
        assert next(told)[0] == 0
        if forgets == 3:
            assert [number for number, _ in told] == [1]
            continue
        with pytest.raises(EvalFleetError) as caught:
            next(told)
        assert caught.value.reason == "STREAM_ENDED"
        assert 5 < now < 10


def test_a_stream_carries_what_can_be_sent_and_goes_on_after_a_break() -> None:
    streams = 0

    def exchange(items: Iterator[tuple[int, str]]) -> Iterator[FakeOutcome]:
        nonlocal streams
        streams += 1
        for number, _ in items:
            if streams == 1 and number == 1:
                raise UnavailableError("away")
            yield FakeOutcome(str(number))

    bad = unsendable("bad")
    requests: list[str | EvalFleetError] = [bad, "a", bad, "b", "c", bad]
    told = dict(answered_sendable_items(iter(requests), exchange, patience_seconds=60))
    assert streams == 2
    assert sorted(told) == [0, 1, 2, 3, 4, 5]
    assert {number for number, each in told.items() if each is bad} == {0, 2, 5}

"""Ranks that wait for the main one: they leave together, and no call between them takes long."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from evalfleet.training import ranks

from tests.patience import LONGEST_WAIT_SECONDS


class FakeGroup:
    """Two ranks, each a thread: what rank 0 tells, rank 1 gets."""

    def __init__(self) -> None:
        self._rank = threading.local()
        self._together = threading.Barrier(2)
        self._told: Any = None
        self.told_count = 0

    def get_rank(self) -> int:
        return int(self._rank.number)

    def broadcast_object_list(self, told: list[Any], src: int) -> None:
        if self.get_rank() == src:
            self._told = told[0]
            self.told_count += 1
        self._together.wait(LONGEST_WAIT_SECONDS)
        told[0] = self._told
        self._together.wait(LONGEST_WAIT_SECONDS)

    def run(self, work: Callable[[int], None]) -> None:
        def begin(number: int) -> None:
            self._rank.number = number
            work(number)

        threads = [threading.Thread(target=begin, args=(number,)) for number in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(LONGEST_WAIT_SECONDS)
            assert not each.is_alive()


def test_the_others_hear_from_the_main_rank_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    group = FakeGroup()
    monkeypatch.setattr(ranks, "process_group", lambda: group)
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        assert group.get_rank() == 0
        waited.append(seconds)
        return len(waited) == 5

    group.run(lambda _: ranks.wait_together(wait, 600.0))
    assert group.told_count == 5
    assert max(waited) <= ranks.TOGETHER_SECONDS


def test_all_leave_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    group = FakeGroup()
    monkeypatch.setattr(ranks, "process_group", lambda: group)
    monkeypatch.setattr(ranks, "TOGETHER_SECONDS", 0.01)
    group.run(lambda _: ranks.wait_together(lambda seconds: threading.Event().wait(seconds), 0.05))
    assert group.told_count >= 1


def test_without_a_group_the_main_rank_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def wait(seconds: float) -> bool:
        asked.append(seconds)
        return True

    ranks.wait_together(wait, 5.0)
    monkeypatch.setenv("RANK", "1")
    ranks.wait_together(wait, 5.0)
    assert len(asked) == 1

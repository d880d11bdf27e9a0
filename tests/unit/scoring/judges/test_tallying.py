"""Votes to metrics."""

import pytest

from services.scoring.judges.asking import Vote
from services.scoring.judges.library import open_library
from services.scoring.judges.tallying import pairwise_agreement, tally_pairs, tally_single

QUALITY = open_library().find("quality")


def votes(*words: str, expected: float | None = None) -> list[Vote]:
    return [Vote(each, expected) for each in words]


def test_a_single_vote() -> None:
    tally = tally_single(QUALITY, votes("4", expected=4.5), pass_from=4)
    assert tally.metrics == {"score": 0.75, "passed": 1.0, "agreement": 1.0, "expected_score": 0.875}
    assert tally.votes == ("4",)


def test_votes_are_averaged_and_a_majority_passes() -> None:
    tally = tally_single(QUALITY, votes("1", "4", "4", "5"), pass_from=4)
    assert tally.metrics == pytest.approx({"score": 0.625, "passed": 1.0, "agreement": 1 / 6})
    assert tally_single(QUALITY, votes("1", "4"), pass_from=4).metrics["passed"] == 0.0


def test_an_expected_score_needs_all_votes() -> None:
    tally = tally_single(QUALITY, [Vote("4", 4.0), Vote("4", None)], pass_from=4)
    assert "expected_score" not in tally.metrics


@pytest.mark.parametrize(
    ("shown_first", "shown_second", "score", "inconsistent", "first_preferred", "said"),
    [
        ("A", "B", 1.0, 0.0, 0.5, "response"),
        ("B", "A", 0.0, 0.0, 0.5, "baseline"),
        ("tie", "tie", 0.5, 0.0, 0.5, "tie"),
        ("A", "A", 0.5, 1.0, 1.0, "tie"),
        ("B", "B", 0.5, 1.0, 0.0, "tie"),
        ("A", "tie", 0.5, 1.0, 0.75, "tie"),
        ("tie", "A", 0.5, 1.0, 0.75, "tie"),
    ],
)
def test_a_win_counts_if_both_orders_agree(
    shown_first: str, shown_second: str, score: float, inconsistent: float, first_preferred: float, said: str
) -> None:
    tally = tally_pairs(votes(shown_first), votes(shown_second))
    assert tally.metrics == {
        "score": score,
        "passed": float(score == 1.0),
        "agreement": 1.0,
        "position_inconsistent": inconsistent,
        "first_preferred": first_preferred,
    }
    assert tally.votes == (said,)


def test_expected_wins_average_both_orders() -> None:
    tally = tally_pairs(votes("A", expected=0.9), votes("B", expected=0.3))
    assert tally.metrics["expected_score"] == pytest.approx((0.9 + 0.7) / 2)


def test_a_judge_that_always_takes_the_first_is_seen_through() -> None:
    tally = tally_pairs(votes("A", "A", "A"), votes("A", "A", "B"))
    assert tally.metrics["position_inconsistent"] == pytest.approx(2 / 3)
    assert tally.metrics["first_preferred"] == pytest.approx(5 / 6)
    assert tally.votes == ("tie", "tie", "response")
    assert tally.metrics["agreement"] == pytest.approx(1 / 3)


def test_agreement_counts_pairs() -> None:
    assert pairwise_agreement(["a"]) == 1.0
    assert pairwise_agreement(["a", "a", "b"]) == pytest.approx(1 / 3)

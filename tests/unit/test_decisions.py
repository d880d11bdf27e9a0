"""Decisions are named by their numbers, so each has one of its own."""

from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"


def test_each_decision_has_a_number_of_its_own_and_says_it() -> None:
    files = sorted(FOLDER.glob("[0-9]*.md"))
    counts = Counter(each.name[:4] for each in files)
    assert [number for number, count in counts.items() if count > 1] == []
    for each in files:
        assert each.read_text(encoding="utf-8").startswith(f"# {each.name[:4]} "), each.name

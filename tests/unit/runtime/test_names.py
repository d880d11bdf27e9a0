"""Misspelled names find what was meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.names import nearest_names

SUITES = ("capability", "safety", "demo", "gsm8k", "TruthfulQA_mc1")


@pytest.mark.parametrize(
    ("given_name", "expected"),
    [
        ("safty", ("safety",)),
        ("DEMO", ("demo",)),
        ("truthfulqa", ("TruthfulQA_mc1",)),
        ("gsm", ("gsm8k",)),
        ("xyzzy", ()),
        ("", ()),
    ],
)
def test_nearest_names(given_name: str, expected: tuple[str, ...]) -> None:
    assert nearest_names(given_name, SUITES) == expected


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=20), st.integers(1, 5))
def test_suggestions_are_candidates_and_few(name: str, candidates: list[str], limit: int) -> None:
    near = nearest_names(name, candidates, limit=limit)
    assert set(near) <= set(candidates)
    assert len(near) <= limit

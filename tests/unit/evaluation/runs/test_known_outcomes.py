"""One bit a sample stands for what a set of keys would."""

from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.runs.known_outcomes import KnownOutcomes

COUNTS = {"a": 1, "b": 3}
keys = st.tuples(st.sampled_from(["a", "b", "gone"]), st.integers(-1, 40), st.integers(-1, 4))


@given(st.lists(keys))
def test_it_is_a_set_of_the_runs_own_samples(added: list[tuple[str, int, int]]) -> None:
    known, expected = KnownOutcomes(COUNTS), set[tuple[str, int, int]]()
    for task, draw_index, sample in added:
        is_own = task in COUNTS and 0 <= sample < COUNTS[task] and draw_index >= 0
        is_new = is_own and (task, draw_index, sample) not in expected
        assert known.add(task, draw_index, sample) is is_new
        if is_own:
            expected.add((task, draw_index, sample))
    assert len(known) == len(expected)
    for task, count in COUNTS.items():
        for draw_index in range(42):
            has = [known.has(task, draw_index, sample) for sample in range(count)]
            assert has == [(task, draw_index, sample) in expected for sample in range(count)]
            assert known.has_all(task, draw_index) is all(has)


def test_a_million_items_take_an_eighth_of_a_megabyte() -> None:
    known = KnownOutcomes({"t": 1})
    known.add("t", 999_999, 0)
    assert len(known._bits["t"]) == 125_000

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.inference.engines.batching import LENGTH_STEP, PASS_TOKENS, AlikeTexts, alike_batches

LENGTHS = st.lists(st.integers(0, 300), min_size=1, max_size=60)


def cost(batches: list[AlikeTexts]) -> int:
    return sum(PASS_TOKENS + len(each.rows) * each.padded_tokens for each in batches)


@given(LENGTHS, st.integers(1, 4096), st.integers(1, 300))
def test_every_text_is_computed_once_and_whole(lengths: list[int], max_tokens: int, longest: int) -> None:
    batches = alike_batches(lengths, max_tokens, longest)
    assert sorted(row for each in batches for row in each.rows) == list(range(len(lengths)))
    for each in batches:
        assert each.padded_tokens >= max(max(lengths[row] for row in each.rows), 1)
        assert len(each.rows) == 1 or len(each.rows) * each.padded_tokens <= max_tokens


@given(LENGTHS)
def test_shapes_are_few_and_never_longer_than_the_model_reads(lengths: list[int]) -> None:
    for each in alike_batches([min(length, 250) for length in lengths], 8192, 250):
        assert each.padded_tokens % LENGTH_STEP == 0 or each.padded_tokens == 250


@given(st.lists(st.integers(1, 8), min_size=1, max_size=6))
def test_no_other_division_costs_less(steps: list[int]) -> None:
    lengths = sorted(step * LENGTH_STEP for step in steps)
    others = []
    for count in range(len(lengths)):
        for cuts in combinations(range(1, len(lengths)), count):
            bounds = [0, *cuts, len(lengths)]
            runs = [lengths[start:end] for start, end in pairwise(bounds)]
            others.append(sum(PASS_TOKENS + len(run) * run[-1] for run in runs))
    assert cost(alike_batches(lengths, 10**6, 300)) == min(others)


def test_a_long_text_is_not_what_short_ones_are_padded_to() -> None:
    short, long = alike_batches([9, 250, 12, 7], 8192, 256)
    assert (set(short.rows), short.padded_tokens) == ({0, 2, 3}, 16)
    assert (list(long.rows), long.padded_tokens) == ([1], 256)

"""Values of many items, in memory that does not grow with the items."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from services.aggregation.intervals import interval_of, mean_of, standard_error_of
from services.aggregation.item_values import ItemValues

FEW = st.lists(st.sampled_from([0.0, 1.0, 1 / 3, -0.0]), max_size=60)
MANY = st.lists(st.floats(-1e100, 1e100), max_size=60).map(lambda some: [*range(1030), *some, *some])


@given(values=FEW | MANY)
def test_nothing_but_the_order_is_lost(values: list[float]) -> None:
    held = ItemValues()
    for each in values:
        held.add(each)
    assert sorted(held) == sorted(values)
    assert (len(held), bool(held)) == (len(values), bool(values))
    assert held.is_binary == all(value in (0.0, 1.0) for value in values)
    assert all(value in held for value in values)
    assert -0.5 not in held or -0.5 in values
    if values:
        assert mean_of(held) == mean_of(values)
    assert standard_error_of(held) == standard_error_of(values)
    assert interval_of(held, 0.95) == interval_of(values, 0.95)


def test_a_million_right_and_wrong_answers_take_no_more_memory_than_ten() -> None:
    held = ItemValues()
    for each in (0.0, 1.0):
        held.add(each)
    tracemalloc.start()
    try:
        for number in range(200_000):
            held.add(float(number % 2))
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()

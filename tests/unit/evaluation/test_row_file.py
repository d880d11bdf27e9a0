"""Rows in a file come back as they were, in any order, without being held in memory."""

import json
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.datasets import InvalidRow, Row
from services.evaluation.row_file import Entry, RowFile
from services.evaluation.tasks import canonical_digest, draw_order, draw_rank

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
rows = st.builds(Row, st.text(), st.integers(1, 1 << 40), st.dictionaries(st.text(), values, max_size=3)) | st.builds(
    InvalidRow, st.text(), st.integers(1, 1 << 40), st.text(), st.none() | st.text()
)
ids = st.text("abc", min_size=1, max_size=2)


def told_apart(given_ids: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for each in given_ids:
        seen[each] = seen.get(each, 0) + 1
        result.append(each if seen[each] == 1 else f"{each}#{seen[each]}")
    return result


def digest_of(row: Row | InvalidRow) -> str:
    return canonical_digest_of_json(row.values if isinstance(row, Row) else row.problem)


def canonical_digest_of_json(content: Any) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


@given(st.lists(st.tuples(ids, rows), max_size=12), st.integers(0, 3), st.none() | st.integers(0, 15))
def test_rows_come_back_as_they_were_and_in_the_seeded_order(
    entries: list[Entry], seed: int, limit: int | None
) -> None:
    file = RowFile(iter(entries))
    names = told_apart([item_id for item_id, _ in entries])
    assert len(file) == len(entries)
    assert list(file.item_ids()) == names
    assert [file.entry(position) for position in range(len(entries))] == [
        (name, row) for name, (_, row) in zip(names, entries, strict=True)
    ]
    assert file.digest("first") == canonical_digest(["first", *(digest_of(row) for _, row in entries)])
    order = draw_order(names, seed=seed, task="t")[:limit]
    drawn = file.ordered(lambda item_id: draw_rank(item_id, seed=seed, task="t"), limit)
    assert drawn.positions() == order
    assert len(drawn) == len(order)
    assert list(drawn.item_ids()) == [names[position] for position in order]
    assert [drawn.entry(place) for place in range(len(order))] == [file.entry(position) for position in order]
    assert [drawn.entry(place) for place in reversed(range(len(order)))] == [
        file.entry(position) for position in reversed(order)
    ]


def some(count: int) -> Iterator[Entry]:
    return ((f"item-{number % 1999}", Row("f", number + 1, {"text": "x" * 200})) for number in range(count))


def test_rows_beyond_one_piece_are_all_there_once() -> None:
    file = RowFile(some(3000))
    drawn = file.ordered(lambda item_id: item_id.encode(), None)
    numbers = [drawn.entry(place)[1].number for place in range(3000)]
    assert sorted(numbers) == list(range(1, 3001))
    assert list(drawn.item_ids()) == sorted(file.item_ids())
    with pytest.raises(IndexError):
        drawn.entry(3000)


def test_other_threads_may_read() -> None:
    file = RowFile(some(500))
    drawn = file.ordered(lambda item_id: item_id.encode(), None)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(file.entry(7)[1].number)) for _ in range(8)]
    for thread in threads:
        thread.start()
    [drawn.entry(place) for place in range(500)]
    for thread in threads:
        thread.join()
    assert found == [8] * 8


def test_memory_does_not_grow_with_the_rows() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        file = RowFile(some(count))
        drawn = file.ordered(lambda item_id: item_id.encode(), None)
        for place in range(count):
            drawn.entry(place)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(20_000) < 1.5 * peak(2000)


def test_what_reading_raises_is_raised() -> None:
    def broken() -> Iterator[Entry]:
        yield from some(3)
        raise ValueError("the disk is on fire")

    with pytest.raises(ValueError, match="on fire"):
        RowFile(broken())

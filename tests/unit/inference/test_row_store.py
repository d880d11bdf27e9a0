"""What running rows have for themselves: where it lies, and how much memory it takes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines.buffer_sizes import row_capacity, token_capacity
from services.inference.engines.packed.prefix_cache import Block
from services.inference.engines.packed.row_store import RowStore
from services.inference.engines.packed.running_rows import RunningRows


def block(num_tokens: int, value: float = 0.0) -> Block:
    tensor = torch.full((1, num_tokens, 1), value)
    return Block([(tensor, tensor)], num_tokens)


def step(store: RowStore) -> None:
    store.begin_step()
    new = torch.zeros(1, len(store.lengths), 1)
    store.write(0, new, new)


def test_what_was_needed_once_does_not_size_what_is_needed_now() -> None:
    store = RowStore()
    like = block(1).layers
    store.append([[like]] * 64, like=like)
    store.remove(range(1, 64))
    for _ in range(2000):
        step(store)
    assert store.num_bytes <= 2 * 4 * 2001 * 1.2


def test_a_row_that_comes_does_not_keep_what_a_longer_one_needed() -> None:
    store = RowStore()
    like = block(1).layers
    store.append([[block(4000).layers], [like]], like=like)
    store.remove([0])
    store.append([[like]] * 2, like=like)
    assert store.num_bytes <= 2 * 4 * 4 * 100


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_buffers_have_room_and_little_more(needed: int, old: int) -> None:
    for capacity, spare in ((token_capacity, 64), (row_capacity, 1)):
        assert needed <= capacity(needed, old) <= max(needed * 1.25, needed + spare)
        if needed > old:
            # Growing by a share, so that what is copied stays in proportion to what is added.
            assert capacity(needed, old) >= needed * (1.1 if old and needed > 10 else 1)


def test_rows_that_find_no_room_leave_the_others_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("row store")

    rows = RunningRows(torch.device("cpu"))
    shared = block(300)
    rows.append([[shared, block(2)], [shared, block(3)]])
    positions = rows.positions()
    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "append", refuse)
        with pytest.raises(torch.OutOfMemoryError):
            rows.append([[shared, block(4)]])
    assert torch.equal(rows.positions(), positions)
    rows.append([[shared, block(4)]])
    assert rows.positions().tolist() == [302, 303, 304]

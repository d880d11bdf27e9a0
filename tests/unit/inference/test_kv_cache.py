from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from services.inference.engines.kv_cache import RowCache, RowLayer, select_rows

LAYERS, HEADS, SIZE = 2, 1, 3
Row = list[list[torch.Tensor]]  # by layer: one [HEADS, SIZE] tensor a token


def prefill(rows: list[Row]) -> DynamicCache:
    """Build a left-padded cache that holds the rows; padding is junk."""
    longest = max(len(row[0]) for row in rows)
    cache = DynamicCache()
    for layer in range(LAYERS):
        keys = torch.full((len(rows), HEADS, longest, SIZE), 99.0)
        for index, row in enumerate(rows):
            keys[index, :, longest - len(row[layer]) :] = torch.stack(row[layer], dim=1)
        cache.update(keys, -keys, layer)
    return cache


def contents(cache: RowCache, row: int, layer: int) -> torch.Tensor:
    """Return what attention would see of a row, [HEADS, tokens, SIZE]."""
    length, time = cache.lengths[row], cache.time_tokens
    keys: Any = cache.layers[layer]
    seen: torch.Tensor = keys._key_buffer[row, :, time - length : time]
    return seen


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_rows_keep_their_own_keys_through_any_history(data: st.DataObject) -> None:
    cache, expected = RowCache(), []
    counter = iter(range(10**6))

    def token() -> torch.Tensor:
        return torch.full((HEADS, SIZE), float(next(counter)))

    for action in data.draw(st.lists(st.sampled_from(["append", "step", "step", "grow", "remove"]), max_size=25)):
        if action == "append":
            lengths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=3))
            new: list[Row] = [[[token() for _ in range(length)] for _ in range(LAYERS)] for length in lengths]
            cache.append_rows(prefill(new), lengths)
            expected += new
        elif action == "remove" and expected:
            gone = data.draw(st.sets(st.integers(0, len(expected) - 1), min_size=1))
            for source, target in cache.remove_rows(sorted(gone)):
                expected[target] = expected[source]
            del expected[len(expected) - len(gone) :]
        elif expected:
            for _ in range(70 if action == "grow" else 1):
                for layer in range(LAYERS):
                    new_keys = torch.stack([token().unsqueeze(1) for _ in expected])
                    for row, keys in zip(expected, new_keys, strict=True):
                        row[layer].append(keys.squeeze(1))
                    seen, values = cache.update(new_keys, -new_keys, layer)
                    assert seen.shape[:2] == (len(expected), HEADS)
                    assert torch.equal(values[:, :, -1:], -new_keys)
                cache.note_step()
        assert list(cache.lengths) == [len(row[0]) for row in expected]
        for index, row in enumerate(expected):
            for layer in range(LAYERS):
                assert torch.equal(contents(cache, index, layer), torch.stack(row[layer], dim=1))


def test_the_time_axis_is_shortened_when_its_longest_row_leaves() -> None:
    cache = RowCache()
    rows: list[Row] = [[[torch.zeros(HEADS, SIZE)] * length] * LAYERS for length in (400, 3)]
    cache.append_rows(prefill(rows), [400, 3])
    cache.remove_rows([0])
    assert cache.time_tokens == 3


def test_what_was_needed_once_does_not_size_what_is_needed_now() -> None:
    cache = RowCache()
    token = torch.zeros(HEADS, SIZE)
    cache.append_rows(prefill([[[token]] * LAYERS for _ in range(64)]), [1] * 64)
    cache.remove_rows(range(1, 64))
    for _ in range(2000):
        for layer in range(LAYERS):
            cache.update(torch.zeros(1, HEADS, 1, SIZE), torch.zeros(1, HEADS, 1, SIZE), layer)
        cache.note_step()
    layers: list[Any] = list(cache.layers)
    rows, _, tokens, _ = layers[0]._key_buffer.shape
    assert rows == 1
    assert tokens <= 2001 * 1.2


@pytest.mark.parametrize("lengths", [[2], [400]])
def test_rows_that_find_no_room_leave_the_others_as_they_were(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    cache = RowCache()
    rows: list[Row] = [[[torch.full((HEADS, SIZE), float(at))] * 5 for _ in range(LAYERS)] for at in range(3)]
    cache.append_rows(prefill(rows), [5] * 3)
    before = [contents(cache, row, layer).clone() for row in range(3) for layer in range(LAYERS)]
    real, calls = RowLayer._grown, []

    def grown(self: RowLayer, *arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 2 * LAYERS:
            raise torch.OutOfMemoryError("the last buffer")
        return real(self, *arguments, **options)

    monkeypatch.setattr(RowLayer, "_grown", grown)
    new: list[Row] = [[[torch.ones(HEADS, SIZE)] * length] * LAYERS for length in lengths]
    with pytest.raises(torch.OutOfMemoryError):
        cache.append_rows(prefill(new), lengths)
    assert list(cache.lengths) == [5] * 3
    after = [contents(cache, row, layer) for row in range(3) for layer in range(LAYERS)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_an_empty_cache_holds_no_memory() -> None:
    cache = RowCache()
    cache.append_rows(prefill([[[torch.zeros(HEADS, SIZE)] * 5] * LAYERS]), [5])
    cache.remove_rows([0])
    layers: list[Any] = list(cache.layers)
    assert [layer._key_buffer for layer in layers] == [None] * LAYERS


def test_selected_rows_are_copies() -> None:
    original = prefill([[[torch.ones(HEADS, SIZE)]] * LAYERS, [[torch.zeros(HEADS, SIZE)]] * LAYERS])
    selected = select_rows(original, torch.tensor([1, 1, 0]))
    selected.update(torch.ones(3, HEADS, 2, SIZE), torch.ones(3, HEADS, 2, SIZE), 0)
    assert original.get_seq_length() == 1
    assert selected.layers[0].keys[:, 0, 0, 0].tolist() == [0.0, 0.0, 1.0]  # type: ignore[union-attr, index]

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from services.inference.engines.kv_cache import RowCache, select_rows

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

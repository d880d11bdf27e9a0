"""The tree of shared prefixes: what it knows, and what it costs to ask."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines.packed.prefix_cache import Block, PrefixCache

TOKEN_BYTES = 2 * 4


def block(num_tokens: int) -> Block:
    tensor = torch.arange(float(num_tokens)).reshape(1, num_tokens, 1)
    return Block([(tensor, tensor)], num_tokens)


def insert(cache: PrefixCache, tokens: list[int]) -> None:
    matched = cache.match(tokens, limit=len(tokens))[1]
    if matched < len(tokens):
        cache.insert(tokens, matched, block(len(tokens) - matched))


sequences = st.lists(
    st.lists(st.sampled_from([[1] * 20, [2] * 20, [1] * 7, [2] * 3]), min_size=1, max_size=5).map(
        lambda parts: [token for part in parts for token in part]
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(sequences, sequences)
def test_asking_tells_what_a_match_would_find_and_changes_nothing(
    known: list[list[int]], asked: list[list[int]]
) -> None:
    cache = PrefixCache(1 << 20)
    for tokens in known:
        insert(cache, tokens)
    for tokens in asked:
        ages, size = list(cache._by_age), cache.num_bytes
        told = cache.matched_tokens(tokens)
        assert (list(cache._by_age), cache.num_bytes) == (ages, size)
        assert told == cache.match(tokens, limit=len(tokens))[1]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_split_that_finds_no_memory_leaves_the_tree_as_it_was(monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    cache = PrefixCache(1 << 20)
    first, second = [1] * 40 + [2] * 40, [1] * 40 + [3] * 40
    insert(cache, first)
    real, calls = Block.part, []

    def part(self: Block, start: int, end: int) -> Block:
        calls.append(start)
        if len(calls) == failing + 1:
            raise torch.OutOfMemoryError("a copy")
        return real(self, start, end)

    with monkeypatch.context() as patch:
        patch.setattr(Block, "part", part)
        with pytest.raises(torch.OutOfMemoryError):
            cache.match(second, limit=len(second))
    assert cache.num_bytes == 80 * TOKEN_BYTES
    [whole], matched = cache.match(first, limit=len(first))
    assert (matched, whole.num_tokens) == (80, 80)
    assert cache.match(second, limit=len(second))[1] == 40

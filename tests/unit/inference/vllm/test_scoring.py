from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.engines.context_group import ContextGroup
from services.inference.engines.vllm.scoring import score_group
from services.inference.engines.vllm.token_engine import MAX_NEXT_IDS, Adapter
from services.inference.failures import InferenceFailure
from tests.fakes.token_engine import BLOCK_TOKENS, VOCABULARY, FakeTokenEngine

TOKENS = st.integers(min_value=0, max_value=3)


def group(context: Sequence[int], *continuations: Sequence[int]) -> ContextGroup:
    return ContextGroup(tuple(context), list(enumerate(map(tuple, continuations))))


def check(engine: FakeTokenEngine, scored: ContextGroup, adapter: str = "") -> None:
    for index, tokens in scored.members:
        one_by_one = [
            engine.score_of([*scored.context, *tokens[:position]], token, adapter)
            for position, token in enumerate(tokens)
        ]
        result = scored.results[index]
        assert result.log_likelihood == pytest.approx(sum(each.log_probability for each in one_by_one))
        assert result.is_greedy == all(each.is_greedy for each in one_by_one)


@given(
    requests=st.lists(
        st.tuples(
            st.lists(TOKENS, min_size=1, max_size=11),
            st.lists(st.lists(TOKENS, min_size=1, max_size=11), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=4,
    )
)
async def test_whatever_is_cached_the_scores_are_those_of_token_after_token(
    requests: list[tuple[list[int], list[list[int]]]],
) -> None:
    engine = FakeTokenEngine()
    for context, continuations in [*requests, *requests]:
        scored = group(context, *continuations)
        await score_group(engine, scored, None)
        check(engine, scored)


async def test_single_token_choices_are_one_request_for_the_next_token() -> None:
    engine = FakeTokenEngine()
    scored = group(range(10), [1], [2], [3], [1])
    await score_group(engine, scored, None)
    check(engine, scored)
    assert [(job.prompt, job.wants_prompt) for job in engine.jobs] == [(tuple(range(10)), False)]
    assert engine.computed_tokens == 10


async def test_a_continuation_is_computed_once_behind_its_cached_context() -> None:
    engine = FakeTokenEngine()
    context = range(2 * BLOCK_TOKENS + 1)
    await score_group(engine, group(context, [1]), None)
    engine.computed_tokens = 0
    scored = group(context, [5, 6, 7])
    assert await score_group(engine, scored, None) == 2 * BLOCK_TOKENS
    check(engine, scored)
    # What is behind the last whole block, and the continuation but for its last token.
    assert engine.computed_tokens == 1 + 2


async def test_more_candidates_than_vllm_takes_at_once_are_asked_for_in_turn() -> None:
    engine = FakeTokenEngine()
    ids = [index % VOCABULARY for index in range(MAX_NEXT_IDS + 5)]
    scored = group([1, 2], *([each] for each in ids))
    await score_group(engine, scored, None)
    check(engine, scored)
    assert all(len(job.next_ids) <= MAX_NEXT_IDS for job in engine.jobs)


async def test_the_adapter_goes_along_with_every_request() -> None:
    engine = FakeTokenEngine()
    scored = group(range(BLOCK_TOKENS), [1, 2], [1, 3], [4])
    await score_group(engine, scored, Adapter("mine", 1, "/adapters/mine"))
    check(engine, scored, "mine")


async def test_a_dead_engine_is_one_failure_and_no_group_of_them() -> None:
    engine = FakeTokenEngine()
    engine.is_crashed = True
    with pytest.raises(InferenceFailure) as caught:
        await score_group(engine, group([1], [1, 2], [3]), None)
    assert caught.value.reason == "ENGINE_CRASHED"

"""The packed model beside the definition: one forward pass over each whole sequence, nothing shared."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from services.inference.engines.context_group import ContextGroup
from services.inference.engines.packed import attention
from services.inference.engines.packed import model as packed_model
from services.inference.engines.packed.model import PackedLimits, PackedModel
from services.inference.engines.packed.passes import SegmentPass

VOCABULARY = 96
TOLERANCE = 1e-4


def _llama() -> Any:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _gpt2() -> Any:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=1024, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


@pytest.fixture(scope="module", params=[_llama, _gpt2])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The same model twice: as transformers computes it, and packed."""
    torch.manual_seed(0)
    reference = request.param().eval()
    torch.manual_seed(0)
    packed = request.param().eval()
    attention.register()
    packed.set_attn_implementation(attention.IMPLEMENTATION)
    return reference, packed


def new_model(packed: Any, *, max_batched_tokens: int = 8192, prefix_bytes: int = 1 << 24) -> PackedModel:
    return PackedModel(packed, torch.device("cpu"), PackedLimits(max_batched_tokens, prefix_bytes, VOCABULARY))


def score_all(model: PackedModel, groups: Sequence[ContextGroup]) -> None:
    with torch.inference_mode():
        finished = [group for done in model.score(groups) for group in done]
    assert len(finished) == len(groups)


def by_definition(reference: Any, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    with torch.inference_mode():
        logits = reference(torch.tensor([[*context, *continuation[:-1]]])).logits[0].log_softmax(-1)
    rows = logits[-len(continuation) :]
    return float(rows.gather(1, torch.tensor(continuation)[:, None]).sum()), rows.argmax(-1).tolist() == continuation


def tokens(source: random.Random, count: int) -> list[int]:
    return [source.randrange(VOCABULARY) for _ in range(count)]


def mixed_groups(seed: int) -> list[ContextGroup]:
    """Shared headers, short and long contexts, repeated contexts, single tokens and whole phrases to score."""
    source = random.Random(seed)
    header, other = tokens(source, 60), tokens(source, 300)
    contexts = [header + tokens(source, source.randrange(1, 40)) for _ in range(5)]
    contexts += [other + tokens(source, source.randrange(1, 8)) for _ in range(3)]
    contexts += [tokens(source, length) for length in (1, 2, 17, 290)]
    contexts.append(contexts[0])
    return [
        ContextGroup(context, [(at, tokens(source, source.randrange(1, 9))) for at in range(3)]) for context in contexts
    ]


@pytest.mark.parametrize("max_batched_tokens", [8192, 130, 16])
def test_scores_are_those_of_the_definition_however_the_work_is_cut(
    pair: tuple[Any, Any], max_batched_tokens: int
) -> None:
    reference, packed = pair
    model = new_model(packed, max_batched_tokens=max_batched_tokens)
    for _ in range(2):  # once computed, once from the cache
        groups = mixed_groups(1)
        score_all(model, groups)
        for group in groups:
            for index, continuation in group.members:
                expected, is_greedy = by_definition(reference, group.context, list(continuation))
                assert group.results[index].log_likelihood == pytest.approx(expected, abs=TOLERANCE)
                assert group.results[index].is_greedy is is_greedy


def test_what_contexts_share_is_computed_once(pair: tuple[Any, Any]) -> None:
    source = random.Random(2)
    header = tokens(source, 200)
    groups = [ContextGroup(header + tokens(source, 20), [(0, tokens(source, 3))]) for _ in range(16)]
    model = new_model(pair[1])
    score_all(model, groups)
    assert model.counts.computed == 200 + 16 * (20 + 2)
    assert sum(group.num_cached_tokens for group in groups) == model.counts.cached == 15 * 200
    later = [ContextGroup(header + tokens(source, 20), [(0, tokens(source, 3))]) for _ in range(4)]
    score_all(model, later)
    assert model.counts.computed == 200 + 20 * 22


@pytest.mark.parametrize(("max_logits", "parts"), [(100, 1), (50, 2), (20, 4), (1, 4)])
def test_few_logits_at_once_do_not_make_contexts_be_computed_again(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, max_logits: int, parts: int
) -> None:
    source = random.Random(9)
    monkeypatch.setattr(packed_model, "_LOGIT_BYTES", max_logits * 4 * VOCABULARY)
    groups = [ContextGroup(tokens(source, 100), [(at, tokens(source, 17)) for at in range(4)]) for _ in range(5)]
    model = new_model(pair[1])
    score_all(model, groups)
    # Each further part computes the context's last token again, off which the first tokens' scores are read.
    assert model.counts.computed == 5 * (100 + 4 * 16 + parts - 1)
    for index, continuation in groups[0].members:
        expected, _ = by_definition(pair[0], groups[0].context, list(continuation))
        assert groups[0].results[index].log_likelihood == pytest.approx(expected, abs=TOLERANCE)


def test_the_prefix_cache_stays_within_its_memory_and_keeps_what_is_used(pair: tuple[Any, Any]) -> None:
    source = random.Random(3)
    header = tokens(source, 64)
    token_bytes = 2 * 2 * 4 * 32
    model = new_model(pair[1], prefix_bytes=200 * token_bytes)
    for _ in range(30):
        score_all(model, [ContextGroup(header + tokens(source, 30), [(0, tokens(source, 2))])])
        assert model.kv_bytes <= 200 * token_bytes
    assert model.cached_tokens([*header, 1]) == 64


def generate(model: PackedModel, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Greedy answers of given lengths; rows leave as they are done."""
    answers: list[list[int]] = [[] for _ in prompts]
    running: list[int] = []
    groups = [ContextGroup(prompt) for prompt in prompts]
    with torch.inference_mode():
        for prefilled in model.prefill(groups):
            entered = [groups.index(group) for group in prefilled.groups]
            for number, token in zip(entered, prefilled.logits.argmax(-1).tolist(), strict=True):
                answers[number].append(token)
            kept = [at for at, number in enumerate(entered) if len(answers[number]) < lengths[number]]
            if kept:
                prefilled.keep(kept)
            running += [entered[at] for at in kept]
            _step(model, running, answers, lengths)
        while running:
            _step(model, running, answers, lengths)
    return answers


def _step(model: PackedModel, running: list[int], answers: list[list[int]], lengths: Sequence[int]) -> None:
    if not running:
        return
    logits = model.decode([answers[number][-1] for number in running])
    for number, token in zip(running, logits.argmax(-1).tolist(), strict=True):
        answers[number].append(token)
    ended = [row for row, number in enumerate(running) if len(answers[number]) == lengths[number]]
    for source, target in model.remove_rows(ended):
        running[target] = running[source]
    del running[len(running) - len(ended) :]


def test_greedy_answers_are_those_of_each_prompt_alone(pair: tuple[Any, Any]) -> None:
    reference, packed = pair
    source = random.Random(4)
    header = tokens(source, 40)
    prompts = [header + tokens(source, source.randrange(1, 30)) for _ in range(6)] + [tokens(source, 5)] * 3
    lengths = [source.randrange(1, 14) for _ in prompts]
    model = new_model(packed, max_batched_tokens=64)
    for _ in range(2):
        for prompt, length, answer in zip(prompts, lengths, generate(model, prompts, lengths), strict=True):
            expected = list(prompt)
            with torch.inference_mode():
                for _ in range(length):
                    expected.append(int(reference(torch.tensor([expected])).logits[0, -1].argmax()))
            assert answer == expected[len(prompt) :]
    assert model.cached_tokens([*header, 1]) == 40


def test_a_long_prompt_that_came_alone_does_not_widen_its_neighbours(pair: tuple[Any, Any]) -> None:
    reference, packed = pair
    source = random.Random(8)
    header = tokens(source, 500)
    prompts = [header + tokens(source, 10), *(tokens(source, 12) for _ in range(3)), header + tokens(source, 9)]
    model = new_model(packed, prefix_bytes=0)
    with torch.inference_mode():
        for prompt in prompts:
            for prefilled in model.prefill([ContextGroup(prompt)]):
                prefilled.keep(range(len(prefilled.groups)))
        logits = model.decode([5] * len(prompts))
        for row, prompt in enumerate(prompts):
            expected = reference(torch.tensor([[*prompt, 5]])).logits[0, -1]
            assert torch.allclose(logits[row], expected, atol=TOLERANCE)
    token_bytes = 2 * 2 * 4 * 32
    assert model.kv_bytes < len(prompts) * 200 * token_bytes


def test_a_pass_that_nobody_waits_for_ends_at_a_layer(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(pair[1])
    layers: list[int] = []
    gone = [False]
    real = SegmentPass.attend

    def attend(attending: SegmentPass, layer: int, *tensors: Any) -> Any:
        output = real(attending, layer, *tensors)
        layers.append(layer)
        gone[0] = True
        return output

    monkeypatch.setattr(SegmentPass, "attend", attend)
    group = ContextGroup(list(range(50)), [(0, [1])], was_cancelled=lambda: gone[0])
    with torch.inference_mode():
        finished = [each for done in model.score([group]) for each in done]
    assert (finished, layers) == ([], [0])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), min_size=1, max_size=8), st.integers(1, 80))
def test_every_context_is_scored_once_whatever_they_share(contexts: list[list[int]], budget: int) -> None:
    torch.manual_seed(0)
    reference, packed = _MODELS
    model = new_model(packed, max_batched_tokens=budget, prefix_bytes=40_000)
    groups = [ContextGroup(context, [(0, [1, 2]), (1, [0])]) for context in contexts]
    score_all(model, groups)
    for group in groups:
        for index, continuation in group.members:
            expected, _ = by_definition(reference, group.context, list(continuation))
            assert group.results[index].log_likelihood == pytest.approx(expected, abs=TOLERANCE)


def _same_twice() -> tuple[Any, Any]:
    torch.manual_seed(5)
    reference = _llama().eval()
    torch.manual_seed(5)
    packed = _llama().eval()
    attention.register()
    packed.set_attn_implementation(attention.IMPLEMENTATION)
    return reference, packed


_MODELS = _same_twice()


def test_plain_products_attend_as_the_kernel_does(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 7, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 7, 8, generator=generator)
    mask = torch.where(torch.rand(2, 1, 7, 7, generator=generator) > 0.3, 0.0, float("-inf"))
    mask[..., 0] = 0.0
    for options in ({"mask": mask}, {"is_causal": True}, {"scale": 0.2}):
        arguments: dict[str, Any] = {"scale": None, "mask": None, "is_causal": False, **options}
        kernel = attention.attend_dense(query, key, value, **arguments)
        for queries_at_once in (512, 3):
            monkeypatch.setattr(attention, "_QUERIES_AT_ONCE", queries_at_once)
            products = attention._attend_by_products(query, key, value, **arguments)
            for one, other in zip(kernel, products, strict=True):
                assert torch.allclose(one, other, atol=1e-5)

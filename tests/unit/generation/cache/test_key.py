from dataclasses import fields, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.generation.cache.key import (
    PART_NAMES,
    ModelIdentity,
    differing_parts,
    is_cacheable,
    sample_key,
    scores_key,
)
from services.generation.requests import GenerationRequest, Prompt, Sampling, ScoringRequest, Turn

MODEL = ModelIdentity("d" * 64, "float32", "transformers", "r" * 64)
SAMPLED = Sampling(max_tokens=8, temperature=0.7, top_p=0.9, top_k=5, stop=("\n", "Q:"), seed=3)
CONVERSATION: Prompt = (Turn("system", "be brief"), Turn("user", "hi"))
REQUEST = GenerationRequest("m", CONVERSATION, SAMPLED, sample_count=4)
SCORING = ScoringRequest("m", "context", (" A", " B"))
CHAT_SCORING = replace(SCORING, context=CONVERSATION)

texts = st.text(st.characters(), max_size=12)
prompts = texts | st.lists(
    st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=4
).map(tuple)
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 300),
    temperature=st.floats(0, 2),
    top_p=st.floats(0.001, 1),
    top_k=st.integers(0, 99),
    stop=st.lists(texts, max_size=3).map(tuple),
    seed=st.integers(-(2**63), 2**63 - 1),
)


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("prompt", replace(REQUEST, prompt=(Turn("system", "be brief"), Turn("user", "hi!")))),
        ("prompt", replace(REQUEST, prompt=(Turn("system", "be brief"), Turn("assistant", "hi")))),
        ("system_prompt", replace(REQUEST, prompt=(Turn("system", "be long"), Turn("user", "hi")))),
        ("truncation", replace(REQUEST, truncate=True)),
        ("max_tokens", replace(REQUEST, sampling=replace(SAMPLED, max_tokens=9))),
        ("temperature", replace(REQUEST, sampling=replace(SAMPLED, temperature=0.7000001))),
        ("top_p", replace(REQUEST, sampling=replace(SAMPLED, top_p=0.91))),
        ("top_k", replace(REQUEST, sampling=replace(SAMPLED, top_k=6))),
        ("stop", replace(REQUEST, sampling=replace(SAMPLED, stop=("\n",)))),
        ("stop", replace(REQUEST, sampling=replace(SAMPLED, stop=("Q:", "\n")))),
        ("seed", replace(REQUEST, sampling=replace(SAMPLED, seed=4))),
    ],
)
def test_each_change_is_seen_and_named(part: str, changed: GenerationRequest) -> None:
    before, after = sample_key(MODEL, REQUEST, 0), sample_key(MODEL, changed, 0)
    assert before.digest != after.digest
    assert differing_parts(before.parts, after.parts) == (part,)


@pytest.mark.parametrize("field", [each.name for each in fields(ModelIdentity)])
def test_each_part_of_the_model_is_seen_and_named(field: str) -> None:
    changed = replace(MODEL, **{field: "other"})
    for before, after in (
        (sample_key(MODEL, REQUEST, 0), sample_key(changed, REQUEST, 0)),
        (scores_key(MODEL, CHAT_SCORING), scores_key(changed, CHAT_SCORING)),
    ):
        assert before.digest != after.digest
        assert differing_parts(before.parts, after.parts) == ("model" if field == "digest" else field,)


def test_a_text_is_the_same_on_every_day() -> None:
    today, tomorrow = replace(MODEL, day="2026-01-01"), replace(MODEL, day="2026-01-02")
    assert scores_key(today, SCORING) == scores_key(tomorrow, SCORING) == scores_key(MODEL, SCORING)
    text = replace(REQUEST, prompt="hi")
    assert sample_key(today, text, 0) == sample_key(tomorrow, text, 0) == sample_key(MODEL, text, 0)


def test_samples_differ_unless_they_are_greedy() -> None:
    assert differing_parts(sample_key(MODEL, REQUEST, 0).parts, sample_key(MODEL, REQUEST, 1).parts) == (
        "sample_index",
    )
    greedy = replace(REQUEST, sampling=Sampling(seed=1))
    assert sample_key(MODEL, greedy, 0) == sample_key(MODEL, replace(greedy, sampling=Sampling(seed=2)), 0)


def test_what_does_not_change_an_answer_does_not_change_its_key() -> None:
    fewer = replace(REQUEST, sample_count=2, model_id="another-name-of-the-same-content", explain_cache=True)
    assert sample_key(MODEL, fewer, 1) == sample_key(MODEL, REQUEST, 1)
    zero, minus = (replace(REQUEST, sampling=Sampling(temperature=value)) for value in (0.0, -0.0))
    assert sample_key(MODEL, zero, 0) == sample_key(MODEL, minus, 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(SCORING, context="context "),
        replace(SCORING, continuations=(" B", " A")),
        replace(SCORING, continuations=(" A", " B", " C")),
        replace(SCORING, continuations=(" A B",)),
        replace(SCORING, truncate=True),
        replace(SCORING, context=(Turn("user", "context"),)),
    ],
)
def test_scores_of_other_requests_have_other_keys(other: ScoringRequest) -> None:
    assert scores_key(MODEL, other).digest != scores_key(MODEL, SCORING).digest


def test_scores_and_answers_never_share_a_key() -> None:
    generation = GenerationRequest("m", "context")
    assert sample_key(MODEL, generation, 0).digest != scores_key(MODEL, ScoringRequest("m", "context", ())).digest


@example((Turn("system", ""), Turn("user", "")), (Turn("user", ""), Turn("system", "")), Sampling(), Sampling())
@given(prompts, prompts, samplings, samplings)
def test_different_requests_have_different_keys(
    prompt: Prompt, other_prompt: Prompt, sampling: Sampling, other_sampling: Sampling
) -> None:
    one = GenerationRequest("m", prompt, sampling)
    other = GenerationRequest("m", other_prompt, other_sampling)
    same = prompt == other_prompt and sampling == other_sampling
    if sampling.temperature == 0 == other_sampling.temperature:
        same = prompt == other_prompt and replace(sampling, seed=0) == replace(other_sampling, seed=0)
    assert (sample_key(MODEL, one, 0) == sample_key(MODEL, other, 0)) is same


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_texts_cannot_run_into_one_another(one: list[str], other: list[str]) -> None:
    keys = [scores_key(MODEL, replace(SCORING, continuations=tuple(each))).digest for each in (one, other)]
    assert (keys[0] == keys[1]) is (one == other)


def test_only_repeatable_answers_are_kept() -> None:
    assert is_cacheable(Sampling())
    assert is_cacheable(Sampling(temperature=1.0, seed=0))
    assert not is_cacheable(Sampling(temperature=1.0))


def test_an_entry_of_another_version_differs_in_everything() -> None:
    assert differing_parts(sample_key(MODEL, REQUEST, 0).parts, b"short") == PART_NAMES


def test_every_field_of_a_request_is_part_of_its_key_or_known_not_to_be() -> None:
    """Whoever adds a field that can change an answer has to add it to the key, and then to this list."""
    assert {each.name for each in fields(Sampling)} == {
        "max_tokens", "temperature", "top_p", "top_k", "stop", "seed"
    }  # fmt: skip
    not_in_the_key = {
        "model_id", "sample_count", "sample_index", "cache_mode", "explain_cache", "priority", "traceparent", "bill"
    }  # fmt: skip
    assert {each.name for each in fields(GenerationRequest)} - not_in_the_key == {"prompt", "sampling", "truncate"}
    assert {each.name for each in fields(ScoringRequest)} - not_in_the_key == {"context", "continuations", "truncate"}

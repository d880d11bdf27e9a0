"""The guard on a fake language model: decisions, thresholds, batches, the cache, and failures."""

import asyncio
import json
import math
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from services.inference.contract import Prompt
from services.runtime.cache.entry import encode_entry
from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import NewEntry
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import DeadlineExceededError, InternalError, UnavailableError
from services.runtime.usage import Usage
from services.safety.answer_cache import AnswerCache
from services.safety.examination import RawAnswer
from services.safety.generative_guard import GenerativeGuard
from services.safety.judgement import Aspect, Decision, GuardReference, Verdict
from services.safety.language_model import GeneratedAnswer
from services.safety.messages import verdict_to_proto
from tests.fakes.kept_entries import kept_keys
from tests.fakes.language_model import (
    ANSWER_COST,
    SAFE_ANSWERS,
    SCORING_COST,
    FakeLanguageModel,
    build_format,
    describe,
    guard_of,
    prompt_text,
    prompt_turn,
    response_turn,
)

LLAMA = "llama-guard-3"


async def one(model: FakeLanguageModel, kind: str = LLAMA, threshold: float | None = None) -> Verdict:
    [verdict] = await guard_of(kind, model).judge([prompt_turn(threshold=threshold)])
    return verdict


def leaning(kind_answer: str, *likelihoods: float) -> FakeLanguageModel:
    model = FakeLanguageModel(kind_answer)
    model.likelihoods = likelihoods
    return model


@pytest.mark.parametrize(
    ("threshold", "decision"),
    [(None, Decision.SAFE), (0.4, Decision.UNSAFE), (0.41, Decision.SAFE), (1.0, Decision.SAFE)],
)
async def test_a_callers_threshold_is_applied_to_the_probability(threshold: float | None, decision: Decision) -> None:
    # exp(-0.51) : exp(-0.92) = 0.6 : 0.4
    verdict = await one(leaning("safe", -0.5108256237659907, -0.916290731874155), threshold=threshold)
    assert verdict.unsafe_probability == pytest.approx(0.4)
    assert verdict.decision is decision
    assert verdict.threshold == threshold


async def test_without_a_threshold_the_worse_of_word_and_probability_counts() -> None:
    assert (await one(leaning("safe", -2.0, -0.1))).decision is Decision.UNSAFE
    assert (await one(leaning("unsafe", -0.1, -2.0))).decision is Decision.UNSAFE
    assert (await one(leaning("safe", -0.1, -2.0))).decision is Decision.SAFE


@pytest.mark.parametrize(
    ("said", "unsafe", "threshold", "decision"),
    [
        ("unsafe\nS1", 0.13, 0.5, Decision.ERROR),
        ("safe", 0.87, 0.95, Decision.ERROR),
        ("unsafe\nS1", 0.13, 0.1, Decision.UNSAFE),  # the threshold is reached all the same
        ("safe", 0.87, 0.5, Decision.UNSAFE),
        ("unsafe\nS1", 0.6, 0.8, Decision.SAFE),  # both agree, and the caller wants to be surer
        ("unsafe\nS1", 0.45, 0.8, Decision.SAFE),  # as good as agree
        ("unsafe\nS1", 0.36, 0.8, Decision.ERROR),
        ("safe", 0.13, 0.5, Decision.SAFE),
    ],
)
async def test_a_threshold_does_not_settle_what_word_and_probability_disagree_on(
    said: str, unsafe: float, threshold: float, decision: Decision
) -> None:
    verdict = await one(leaning(said, math.log(1 - unsafe), math.log(unsafe)), threshold=threshold)
    assert verdict.decision is decision
    assert verdict.error_reason == ("ANSWER_CONTRADICTORY" if decision is Decision.ERROR else "")


async def test_white_space_is_scored_once_at_the_seam_of_prompt_and_answer() -> None:
    model = FakeLanguageModel("\n\nsafe")
    for has_template in (True, False):
        guard_format = build_format(LLAMA, has_template=has_template)
        about = describe(LLAMA, guard_format)
        guard = GenerativeGuard(about, model, guard_format, timeout_seconds=30, max_concurrent=1)
        assert (await guard.judge([prompt_turn()]))[0].decision is not Decision.ERROR
    assert isinstance(model.prompts[1], str)
    assert model.prompts[1].endswith("\n\n")
    # A template's own end is not known here, and Llama Guard's has no white space.
    assert model.scored == [("\n\nsafe", "\n\nunsafe"), ("safe", "unsafe")]


async def test_nemoguards_words_are_scored_without_the_quote_that_tokenizers_join_to_what_follows() -> None:
    model = FakeLanguageModel(SAFE_ANSWERS["nemoguard"][Aspect.RESPONSE])
    await guard_of("nemoguard", model).judge([response_turn()])
    before = '{"User Safety": "safe", "Response Safety": "'
    assert model.scored == [(before + "safe", before + "unsafe")]


async def test_an_unknown_code_is_unsafe_at_any_threshold() -> None:
    verdict = await one(leaning("unsafe\nS1,S77", -0.1, -2.0), threshold=1.0)
    assert (verdict.decision, verdict.unmapped) == (Decision.UNSAFE, True)


async def test_an_unknown_code_can_be_sent_whatever_it_is() -> None:
    said = json.dumps({"violation": 1, "categories": ["\ud800", "x" * 999]})
    verdict = await one(FakeLanguageModel(said), "gpt-oss-safeguard")
    codes = [each.category.code for each in verdict.categories]
    assert codes == ["?", "x" * 80]
    verdict_to_proto(verdict).SerializeToString()


@pytest.mark.parametrize(
    ("threshold", "decision"),
    [
        (None, Decision.CONTROVERSIAL),
        (0.25, Decision.UNSAFE),
        (0.5, Decision.CONTROVERSIAL),
        (0.75, Decision.CONTROVERSIAL),
        (0.8, Decision.SAFE),
    ],
)
async def test_the_middle_level_lies_between_unsafe_and_not_safe_enough(
    threshold: float | None, decision: Decision
) -> None:
    # Safe 0.25, controversial 0.5, unsafe 0.25.
    model = leaning(
        "Safety: Controversial\nCategories: Jailbreak", -1.3862943611198906, -0.6931471805599453, -1.3862943611198906
    )
    verdict = await one(model, "qwen3guard", threshold)
    assert verdict.decision is decision
    assert verdict.unsafe_probability == pytest.approx(0.25)
    assert bool(verdict.categories) is (decision is not Decision.SAFE)


async def test_one_question_a_category_gives_a_probability_each() -> None:
    def answers(prompt: Prompt) -> str:
        said = getattr(prompt, "variables", {})["guideline"]
        return "Yes" if "Hate" in said or "Harassment" in said else "No"

    verdict = await one(FakeLanguageModel(answers), "shieldgemma")
    assert verdict.decision is Decision.UNSAFE
    assert {each.category.code for each in verdict.categories} == {"hate", "harassment"}
    assert all(each.probability == pytest.approx(0.9 / 0.95) for each in verdict.categories)
    assert verdict.unsafe_probability == max(each.probability or 0 for each in verdict.categories)
    assert len(verdict.all_scores) == 4, "a policy may have lower thresholds than the guard"


async def test_one_unusable_answer_of_several_makes_no_verdict() -> None:
    def answers(prompt: Prompt) -> str:
        return "Maybe" if "Hate" in str(getattr(prompt, "variables", {})) else "No"

    verdict = await one(FakeLanguageModel(answers), "shieldgemma")
    assert (verdict.decision, verdict.error_reason) == (Decision.ERROR, "ANSWER_UNREADABLE")


async def test_a_batch_is_judged_in_order_and_a_bad_turn_fails_alone() -> None:
    def answers(prompt: Prompt) -> str | BaseException:
        text = prompt_text(prompt)
        if "boom" in text:
            return InternalError("x", reason="INFERENCE_FAILED")
        return "unsafe\nS1" if "kill" in text else "safe"

    texts = ["hello", "kill", "boom", "bye"]
    verdicts = await guard_of(LLAMA, FakeLanguageModel(answers)).judge([prompt_turn(each) for each in texts])
    assert [each.decision for each in verdicts] == [Decision.SAFE, Decision.UNSAFE, Decision.ERROR, Decision.SAFE]
    assert verdicts[2].error_reason == "INFERENCE_FAILED"


async def test_no_more_turns_are_asked_about_at_once_than_allowed() -> None:
    running = most = 0

    async def answers(prompt: Prompt) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return "safe"

    await guard_of(LLAMA, FakeLanguageModel(answers)).judge([prompt_turn(f"{number}") for number in range(40)])
    assert most == 8


async def test_a_model_that_is_away_fails_the_call_only_if_nobody_was_judged() -> None:
    away = UnavailableError("away", reason="GUARD_UNAVAILABLE")
    with pytest.raises(UnavailableError):
        await guard_of(LLAMA, FakeLanguageModel(away)).judge([prompt_turn("a"), prompt_turn("b")])

    def answers(prompt: Prompt) -> str | BaseException:
        return away if "late" in prompt_text(prompt) else "safe"

    verdicts = await guard_of(LLAMA, FakeLanguageModel(answers)).judge([prompt_turn("early"), prompt_turn("late")])
    assert [each.error_reason for each in verdicts] == ["", "GUARD_UNAVAILABLE"]


async def test_a_slow_guard_is_an_error_verdict_and_a_hurried_caller_a_failed_call() -> None:
    def hangs(_: Prompt) -> "asyncio.Future[str]":
        return asyncio.get_running_loop().create_future()

    [verdict] = await guard_of(LLAMA, FakeLanguageModel(hangs), timeout_seconds=0.01).judge([prompt_turn()])
    assert (verdict.decision, verdict.error_reason) == (Decision.ERROR, "GUARD_TIMEOUT")
    with bind_deadline(0.06), pytest.raises(DeadlineExceededError):
        await guard_of(LLAMA, FakeLanguageModel(hangs)).judge([prompt_turn()])


async def test_an_unsafe_answer_that_was_cut_off_is_still_unsafe() -> None:
    verdict = await one(FakeLanguageModel(GeneratedAnswer("unsafe\nS1,S2,S3,S", is_complete=False)))
    assert (verdict.decision, verdict.unmapped) == (Decision.UNSAFE, True)


async def test_readiness_is_the_models() -> None:
    model = FakeLanguageModel("safe")
    guard = guard_of(LLAMA, model)
    assert await guard.is_ready()
    model.ready = False
    assert not await guard.is_ready()


REFERENCE = GuardReference("guards/g", "w", "t", "c", "e", "float32")


def remembering(
    model: FakeLanguageModel, store: SqliteCacheStore, kind: str = LLAMA, reference: GuardReference = REFERENCE
) -> GenerativeGuard:
    guard_format = build_format(kind)
    metrics = CacheMetrics("test", CollectorRegistry())
    cache = AnswerCache(reference, engine_revision="r", store=store, metrics=metrics)
    about = describe(kind, guard_format)
    return GenerativeGuard(about, model, guard_format, timeout_seconds=30, max_concurrent=8, cache=cache)


async def test_a_known_turn_costs_nothing_at_any_threshold(store: SqliteCacheStore) -> None:
    model = leaning("safe", -0.5108256237659907, -0.916290731874155)
    guard = remembering(model, store)
    [first] = await guard.judge([prompt_turn()])
    await store.flush()
    [again, strict] = await guard.judge([prompt_turn(), prompt_turn(threshold=0.3)])
    assert not first.cached
    assert first.usage == ANSWER_COST + SCORING_COST
    assert again == replace(first, cached=True, usage=first.usage.from_cache)
    assert (strict.decision, strict.cached) == (Decision.UNSAFE, True)
    assert (len(model.prompts), len(model.scored)) == (1, 1)
    [other] = await guard.judge([response_turn()])
    assert not other.cached


async def test_an_answer_that_was_kept_before_tokens_were_counted_is_known(store: SqliteCacheStore) -> None:
    model = FakeLanguageModel("safe")
    guard = remembering(model, store)
    cache = AnswerCache(REFERENCE, engine_revision="r", store=store, metrics=CacheMetrics("test", CollectorRegistry()))
    [question] = build_format(LLAMA).questions(prompt_turn())
    key = cache._key(question)
    await store.put(NewEntry(key, encode_entry(key, json.dumps(["safe", True, [-0.1, -2.0]]).encode())))
    [verdict] = await guard.judge([prompt_turn()])
    assert (verdict.decision, verdict.cached, verdict.usage, model.prompts) == (Decision.SAFE, True, Usage(), [])


@pytest.mark.parametrize("part", ["weights_digest", "template_digest", "engine", "dtype"])
async def test_another_guard_is_asked_anew(store: SqliteCacheStore, part: str) -> None:
    model = FakeLanguageModel("safe")
    await remembering(model, store).judge([prompt_turn()])
    await remembering(model, store, reference=replace(REFERENCE, **{part: "other"})).judge([prompt_turn()])
    await remembering(model, store, reference=replace(REFERENCE, calibration_digest="other")).judge([prompt_turn()])
    assert len(model.prompts) == 2


@pytest.mark.parametrize("broken", ["garbage", "nan", "cut off"])
async def test_what_could_not_be_used_is_asked_again(store: SqliteCacheStore, broken: str) -> None:
    model = FakeLanguageModel("garbage" if broken == "garbage" else GeneratedAnswer("safe", broken != "cut off"))
    model.likelihoods = (float("nan"), -1.0) if broken == "nan" else None
    guard = remembering(model, store)
    assert (await guard.judge([prompt_turn()]))[0].decision is Decision.ERROR
    model.answers, model.likelihoods = SAFE_ANSWERS[LLAMA][prompt_turn().aspect], None
    [verdict] = await guard.judge([prompt_turn()])
    assert (verdict.decision, verdict.cached) == (Decision.SAFE, False)


async def test_a_kept_answer_that_is_no_longer_understood_is_asked_anew(store: SqliteCacheStore) -> None:
    cache = AnswerCache(REFERENCE, engine_revision="r", store=store, metrics=CacheMetrics("test", CollectorRegistry()))
    [question] = build_format(LLAMA).questions(prompt_turn())
    await cache.keep(question, RawAnswer("all clear", True, (-0.1, -2.0)))
    [verdict] = await remembering(FakeLanguageModel("safe"), store).judge([prompt_turn()])
    assert (verdict.decision, verdict.cached) == (Decision.SAFE, False)


async def test_a_damaged_entry_is_asked_anew(store: SqliteCacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeLanguageModel("safe")
    guard = remembering(model, store)
    with kept_keys(store, monkeypatch) as keys:
        await guard.judge([prompt_turn()])
    [key] = keys
    await store.put(NewEntry(key, b"damaged"))
    [verdict] = await guard.judge([prompt_turn()])
    assert (verdict.decision, verdict.cached) == (Decision.SAFE, False)

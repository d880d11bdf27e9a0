"""The scorer `llm_judge`: who is asked what, what is remembered, what it costs, and what it does not guess."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.runtime.cache.metrics import CacheMetrics
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import CacheStore
from services.runtime.calls import bind_ids
from services.runtime.errors import (
    FailedPreconditionError,
    FleetError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.scoring.contract import Score, ScoringItem, TextOutput
from services.scoring.judges.asking import Asking
from services.scoring.judges.errors import usage_of
from services.scoring.judges.judge_model import Decoding, JudgePrompt
from services.scoring.judges.known_answers import KnownAnswers
from services.scoring.judges.library import open_library
from services.scoring.judges.rendering import Section, render
from services.scoring.judges.rubric import Rubric
from services.scoring.parameters import parse_parameters
from services.scoring.registry import ScorerRegistry
from services.scoring.scorers import llm_judge
from services.scoring.scorers.llm_judge import LlmJudge, LlmJudgeParameters
from services.scoring.usage import Usage
from tests.fakes.judge_model import ANSWER_COST, LIKELIHOOD_COST, FakeJudgeModel, section
from tests.fakes.kept_entries import kept_keys
from tests.patience import LONGEST_WAIT_SECONDS, until

LIBRARY = open_library()
ITEM = ScoringItem(prompt="Why is the sky blue?")
PAIR = ScoringItem(prompt="Why?", details={"baseline": "bad"})
METRICS = CacheMetrics("test", CollectorRegistry())


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CacheStore]:
    opened = await SqliteCacheStore.open(tmp_path / "judged.sqlite3", max_bytes=2**24, metrics=METRICS)
    yield opened
    await opened.close()


def scorer(model: FakeJudgeModel, store: CacheStore | None = None, *judges: str, revision: str = "") -> LlmJudge:
    known = KnownAnswers(store, METRICS, engine_revision=revision)
    return LlmJudge(Asking(model, known, max_concurrent=8), LIBRARY, judges)


async def judged(judge: LlmJudge, text: str = "Because.", item: ScoringItem = ITEM, **parameters: Any) -> Score:
    checked = parse_parameters("llm_judge", LlmJudgeParameters, {"judges": ["judge"], **parameters})
    return await judge.score(checked, item, TextOutput(text))


async def failure(judge: LlmJudge, text: str = "Because.", item: ScoringItem = ITEM, **parameters: Any) -> FleetError:
    with pytest.raises(FleetError) as failed:
        await judged(judge, text, item, **parameters)
    return failed.value


def fours(model: str, prompt: str, sample: int) -> str:
    return "Fine.\nVerdict: 4"


def prefers_good(model: str, prompt: str, sample: int) -> str:
    """Prefers the response that says good, wherever it stands."""
    first, second = section(prompt, "response_a"), section(prompt, "response_b")
    return f"Verdict: {'tie' if first == second else 'A' if first == 'good' else 'B'}"


async def test_a_response_is_scored_with_what_it_cost() -> None:
    model = FakeJudgeModel(fours, log_likelihoods=[-9.0, -9.0, -9.0, -0.7, -0.7])
    score = await judged(scorer(model))

    assert score.metrics["score"] == 0.75
    assert score.metrics["expected_score"] == pytest.approx(0.875, abs=0.01)
    assert score.extracted_answer == "4"
    assert score.usage == ANSWER_COST + LIKELIHOOD_COST
    assert not score.cached
    ((name, prompt),) = model.asked
    assert (name, prompt.format) == ("models/judge", "chat")
    assert section(prompt.text, "prompt") == "Why is the sky blue?"
    assert section(prompt.text, "response") == "Because."
    assert "<reference>" not in prompt.text
    assert model.scored == [("Fine.", tuple(f"\nVerdict: {each}" for each in range(1, 6)))]
    (decoding,) = model.decodings
    assert (decoding.temperature, decoding.max_tokens, decoding.sample_count) == (0.0, 512, 1)


async def test_a_model_without_likelihoods_gives_no_expected_score() -> None:
    assert "expected_score" not in (await judged(scorer(FakeJudgeModel(fours)))).metrics
    asked = FakeJudgeModel(fours, log_likelihoods=[-1.0] * 5)
    assert "expected_score" not in (await judged(scorer(asked), probabilities=False)).metrics
    assert asked.scored == []


async def test_garbage_is_an_error_and_costs_what_it_cost() -> None:
    error = await failure(scorer(FakeJudgeModel(lambda *_: "I like it!")))
    assert error.reason == "JUDGE_UNPARSABLE"
    assert isinstance(error, FailedPreconditionError)
    assert usage_of(error) == ANSWER_COST
    assert error.metadata["judge"] == "models/judge"


async def test_one_unreadable_vote_leaves_no_verdict() -> None:
    model = FakeJudgeModel(lambda model, prompt, sample: "Verdict: 4" if sample else "Verdict: none")
    assert (await failure(scorer(model), votes=3, temperature=0.7)).reason == "JUDGE_UNPARSABLE"


async def test_an_answer_that_was_cut_off_is_an_error() -> None:
    model = FakeJudgeModel(fours)
    model.cut = True
    assert "cut off" in (await failure(scorer(model))).message


async def test_a_second_time_costs_nothing(store: CacheStore) -> None:
    model = FakeJudgeModel(fours, log_likelihoods=[-9.0, -9.0, -9.0, -0.7, -0.7])
    first = await judged(scorer(model, store))
    again = await judged(scorer(model, store))

    assert (again.metrics, again.extracted_answer, again.decided_by) == (
        first.metrics, first.extracted_answer, first.decided_by
    )  # fmt: skip
    assert again.cached
    assert again.usage == Usage(prompt_tokens=210, completion_tokens=15, cache_saved_tokens=225)
    assert len(model.asked) == len(model.scored) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"text": "Other."},
        {"item": ScoringItem(prompt="Other?")},
        {"judges": ["other"]},
        {"criteria": "Other."},
        {"votes": 2, "temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 0.5, "seed": 1},
        {"max_tokens": 100},
        {"format": "plain"},
        {"probabilities": False},
        {"scale": [1, 6], "pass_from": 4},
    ],
)
async def test_another_question_is_asked_anew(store: CacheStore, change: dict[str, Any]) -> None:
    model = FakeJudgeModel(fours, log_likelihoods=[-1.0] * 6)
    model.log_likelihoods = None
    await judged(scorer(model, store))
    await judged(scorer(model, store), temperature=0.5)
    asked = len(model.asked)
    known = change == {"temperature": 0.5}
    await judged(scorer(model, store), **change)
    assert len(model.asked) == asked + (not known)


async def test_other_weights_or_engines_are_asked_anew(store: CacheStore) -> None:
    model = FakeJudgeModel(fours)
    first = await judged(scorer(model, store))
    model.digests["models/judge"] = "d9"
    second = await judged(scorer(model, store))
    await judged(scorer(model, store, revision="other"))
    assert len(model.asked) == 3
    assert first.decided_by != second.decided_by


async def test_another_models_likelihoods_are_not_taken_for_the_judges(store: CacheStore) -> None:
    model = FakeJudgeModel(fours, log_likelihoods=[-1.0] * 5)
    model.replaced_by = "d9"
    error = await failure(scorer(model, store))
    assert (error.reason, type(error)) == ("JUDGE_REPLACED", UnavailableError)
    assert usage_of(error) == ANSWER_COST + LIKELIHOOD_COST
    model.replaced_by = ""
    model.digests["models/judge"] = "d1"
    assert not (await judged(scorer(model, store))).cached


async def test_of_a_model_that_may_change_nothing_is_kept(store: CacheStore) -> None:
    model = FakeJudgeModel(fours)
    model.is_known = False
    await judged(scorer(model, store))
    assert not (await judged(scorer(model, store))).cached
    assert len(model.asked) == 2


async def test_garbage_is_not_kept(store: CacheStore) -> None:
    answers = iter(["?", "Verdict: 4"])
    model = FakeJudgeModel(lambda *_: next(answers))
    await failure(scorer(model, store))
    assert (await judged(scorer(model, store))).metrics["score"] == 0.75


async def test_a_damaged_entry_is_asked_for_again(store: CacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeJudgeModel(fours)
    with kept_keys(store, monkeypatch) as keys:
        await judged(scorer(model, store))
    (key,) = keys
    entry = (await store.get_many([key]))[key]

    async def damaged(keys: Any) -> dict[bytes, bytes]:
        return {key: entry[:-3] + b"xxx"}

    monkeypatch.setattr(store, "get_many", damaged)
    assert not (await judged(scorer(model, store))).cached
    assert len(model.asked) == 2


async def test_who_asks_the_same_at_once_shares_the_answer_and_one_pays() -> None:
    model = FakeJudgeModel(fours)
    model.gate = asyncio.Event()
    judge = scorer(model)
    asking = [asyncio.create_task(judged(judge)) for _ in range(5)]
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await until(lambda: model.identified == len(asking))
        model.gate.set()
        scores = await asyncio.gather(*asking)
    assert len(model.asked) == 1
    assert sorted(each.cached for each in scores) == [False, True, True, True, True]
    assert sum(each.usage.computed_prompt_tokens for each in scores if each.usage) == 100


async def leave(asking: asyncio.Task[Any]) -> None:
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_who_shares_an_answer_pays_for_it_if_the_first_who_asked_has_left() -> None:
    model = FakeJudgeModel(fours)
    model.gate = asyncio.Event()
    judge = scorer(model)
    first = asyncio.create_task(judged(judge))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await model.was_asked.wait()
        asking = [asyncio.create_task(judged(judge)) for _ in range(2)]
        await until(lambda: model.identified == 3)
        await leave(first)
        model.gate.set()
        scores = await asyncio.gather(*asking)
    assert len(model.asked) == 1
    assert [each.cached for each in scores].count(False) == 1
    assert [each.usage for each in scores].count(ANSWER_COST) == 1


async def test_who_shares_a_failure_pays_for_it_if_the_first_who_asked_has_left() -> None:
    model = FakeJudgeModel(lambda *_: "garbage")
    model.gate = asyncio.Event()
    judge = scorer(model)
    first = asyncio.create_task(failure(judge))
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await model.was_asked.wait()
        asking = [asyncio.create_task(failure(judge)) for _ in range(2)]
        await until(lambda: model.identified == 3)
        await leave(first)
        model.gate.set()
        errors = await asyncio.gather(*asking)
    assert [usage_of(each) for each in errors].count(ANSWER_COST) == 1
    assert [usage_of(each) for each in errors].count(Usage()) == 1


async def test_rubrics_that_give_words_other_values_share_no_answer_under_way() -> None:
    verdicts = {"good": 1.0, "bad": 0.0}
    rubric = LIBRARY.find("correctness").model_copy(update={"verdicts": verdicts})
    other = rubric.model_copy(update={"verdicts": {**verdicts, "good": 4.0}})
    model = FakeJudgeModel(lambda *_: "Verdict: good", log_likelihoods=[0.0, -50.0])
    asking = Asking(model, KnownAnswers(None, METRICS, engine_revision=""), max_concurrent=8)
    prompt, decoding = JudgePrompt("same", "chat"), Decoding(10, 0.0, 0, 1)
    one, two = await asyncio.gather(
        *(asking.ask("models/judge", each, prompt, decoding, wants_likelihoods=True) for each in (rubric, other))
    )
    assert (one.votes[0].expected, two.votes[0].expected) == pytest.approx((1.0, 4.0))


async def test_who_shares_a_failure_does_not_pay_for_it_again() -> None:
    model = FakeJudgeModel(lambda *_: "garbage")
    model.gate = asyncio.Event()
    judge = scorer(model)
    asking = [asyncio.create_task(failure(judge)) for _ in range(3)]
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        await until(lambda: model.identified == len(asking))
        model.gate.set()
        errors = await asyncio.gather(*asking)
    assert [each.reason for each in errors] == ["JUDGE_UNPARSABLE"] * 3
    assert sum(usage_of(each).computed_prompt_tokens for each in errors) == 100


async def test_who_asks_little_does_not_wait_for_all_of_who_asks_much() -> None:
    model = FakeJudgeModel(fours)
    model.gate = asyncio.Event()
    asking = Asking(model, KnownAnswers(None, METRICS, engine_revision=""), max_concurrent=1)

    async def ask(caller: str, text: str) -> None:
        with bind_ids(caller=caller):
            prompt, decoding = JudgePrompt(text, "chat"), Decoding(10, 0.0, 0, 1)
            await asking.ask("models/judge", LIBRARY.find("quality"), prompt, decoding, wants_likelihoods=False)

    async with asyncio.timeout(LONGEST_WAIT_SECONDS), asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(ask("much", f"much {number}"))
        await model.was_asked.wait()
        group.create_task(ask("little", "little"))
        for _ in range(20):
            await asyncio.sleep(0)
        model.gate.set()
    assert [prompt.text for _, prompt in model.asked].index("little") == 1


async def test_the_quota_of_one_caller_is_not_that_of_who_shares_its_question() -> None:
    model = FakeJudgeModel(fours)
    model.gate = asyncio.Event()
    model.failures = [ResourceExhaustedError("your quota is used up", reason="QUOTA_EXCEEDED")]
    judge = scorer(model)
    async with asyncio.timeout(LONGEST_WAIT_SECONDS), asyncio.TaskGroup() as group:
        refused = group.create_task(failure(judge))
        await model.was_asked.wait()
        other = group.create_task(judged(judge))
        await until(lambda: model.identified == 2)
        model.gate.set()
    assert refused.result().reason == "JUDGE_QUOTA_EXCEEDED"
    assert other.result().metrics["score"] == 0.75


async def test_a_pair_is_asked_in_both_orders() -> None:
    model = FakeJudgeModel(prefers_good)
    score = await judged(scorer(model), "good", PAIR, rubric="preference")
    assert score.metrics == {
        "score": 1.0, "passed": 1.0, "agreement": 1.0, "position_inconsistent": 0.0, "first_preferred": 0.5
    }  # fmt: skip
    assert score.extracted_answer == "response"
    assert [section(prompt.text, "response_a") for _, prompt in model.asked] == ["good", "bad"]
    assert score.usage == ANSWER_COST + ANSWER_COST


async def test_a_judge_that_takes_the_first_has_its_bias_shown() -> None:
    score = await judged(scorer(FakeJudgeModel(lambda *_: "Verdict: A")), "good", PAIR, rubric="preference")
    assert score.metrics["position_inconsistent"] == 1.0
    assert score.metrics["first_preferred"] == 1.0
    assert score.metrics["score"] == 0.5


async def test_a_panel_votes_and_its_agreement_is_shown() -> None:
    model = FakeJudgeModel(lambda model, prompt, sample: f"Verdict: {4 + sample if model == 'models/judge' else 1}")
    score = await judged(scorer(model), judges=["judge", "models/other"], votes=2, temperature=1.0)
    assert score.extracted_answer == "4 5 1 1"
    assert score.metrics == pytest.approx({"score": 7 / 16, "passed": 0.0, "agreement": 1 / 6})
    assert score.usage == ANSWER_COST + ANSWER_COST


async def test_what_the_others_of_a_panel_cost_is_in_the_failure() -> None:
    model = FakeJudgeModel(lambda model, prompt, sample: "Verdict: 4" if model == "models/judge" else "garbage")
    error = await failure(scorer(model), judges=["judge", "other"])
    assert usage_of(error) == ANSWER_COST + ANSWER_COST
    assert error.metadata["judge"] == "models/other"


async def test_reference_answers_are_shown_where_the_rubric_wants_them() -> None:
    model = FakeJudgeModel(lambda *_: "Verdict: correct")
    item = ScoringItem(prompt="Capital?", targets=("Paris", "Paris, France"))
    score = await judged(scorer(model), "Paris", item, rubric="correctness")
    assert score.metrics["score"] == score.metrics["passed"] == 1.0
    assert model.asked[0][1].text.count("<reference>\n") == 2
    assert (await failure(scorer(model), rubric="correctness")).field_violations[0].field == "targets"


async def test_the_services_judges_stand_in() -> None:
    model = FakeJudgeModel(fours)
    await judged(scorer(model, None, "other"), judges=[])
    assert model.asked[0][0] == "models/other"
    error = await failure(scorer(model), judges=[])
    assert (error.reason, type(error).__mro__[1]) == ("JUDGE_NOT_NAMED", NotFoundError)


async def test_failures_of_a_judge_are_named_as_such() -> None:
    assert (await failure(scorer(FakeJudgeModel(fours)), judges=["x"])).reason == "JUDGE_MODEL_NOT_FOUND"
    model = FakeJudgeModel(fours)
    model.failures = [UnavailableError("loading", reason="MODEL_LOADING", retry_after_seconds=2.0)]
    loading = await failure(scorer(model))
    assert isinstance(loading, UnavailableError)
    assert (loading.reason, loading.retry_after_seconds) == ("JUDGE_MODEL_LOADING", 2.0)
    model.failures = [InvalidArgumentError("too long", reason="PROMPT_TOO_LONG")]
    assert (await failure(scorer(model))).reason == "JUDGE_PROMPT_TOO_LONG"


async def test_answers_whose_likelihoods_fail_are_paid_for() -> None:
    model = FakeJudgeModel(fours, log_likelihoods=[-1.0] * 5)
    model.likelihood_failures = [UnavailableError("away")]
    assert usage_of(await failure(scorer(model))) == ANSWER_COST


@pytest.mark.parametrize(
    ("parameters", "item", "field"),
    [
        ({"votes": 2}, ITEM, "parameters"),
        ({"judges": ["a", "models/a"]}, ITEM, "parameters"),
        ({"judges": ["../x"]}, ITEM, "parameters.judges.0"),
        ({"scale": [1, 12], "pass_from": 4}, ITEM, "parameters.scale"),
        ({"pass_from": 9}, ITEM, "parameters.pass_from"),
        ({"rubric": "preference", "pass_from": 1}, PAIR, "parameters.pass_from"),
        ({"rubric": "preference"}, ITEM, "details.baseline"),
        ({}, ScoringItem(), "prompt"),
        ({}, ScoringItem(prompt="x", details={"base": "y"}), "details.base"),
        ({"temprature": 1}, ITEM, "parameters.temprature"),
    ],
)
async def test_what_does_not_fit_is_refused_before_anybody_is_asked(
    parameters: dict[str, Any], item: ScoringItem, field: str
) -> None:
    model = FakeJudgeModel(fours)
    error = await failure(scorer(model), item=item, **parameters)
    assert [each.field for each in error.field_violations][:1] == [field]
    assert model.asked == []


@pytest.mark.parametrize(
    ("text", "item", "field"),
    [
        ("x" * 500_000, ScoringItem(prompt="?"), "text"),
        ("x", ScoringItem(prompt="?" * 500_000), "prompt"),
        ("x", ScoringItem(prompt="?", targets=("y" * 250_000,) * 2), "targets"),
        ("x", ScoringItem(prompt="?", details={"baseline": "y" * 500_000}), "details.baseline"),
    ],
    ids=["text", "prompt", "targets", "baseline"],
)
async def test_texts_that_are_too_long_are_refused_before_anybody_is_asked(
    text: str, item: ScoringItem, field: str
) -> None:
    model = FakeJudgeModel(prefers_good)
    error = await failure(scorer(model), text, item, rubric="preference" if item.details else "quality")
    assert error.reason == "TEXT_TOO_LONG"
    assert [each.field for each in error.field_violations] == [field]
    assert model.asked == []


async def test_the_event_loop_goes_on_while_a_prompt_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    writers: list[int] = []

    def noting(rubric: Rubric, sections: Sequence[Section]) -> str:
        writers.append(threading.get_ident())
        return render(rubric, sections)

    monkeypatch.setattr(llm_judge, "render", noting)
    await judged(scorer(FakeJudgeModel(fours)))
    assert threading.get_ident() not in writers
    assert len(writers) == 1


def test_a_judge_has_one_digest_by_either_name() -> None:
    registry = ScorerRegistry((scorer(FakeJudgeModel(fours)),))
    short, full, other = (
        registry.bind("scorers/llm_judge", {"judges": [name]}).reference for name in ("judge", "models/judge", "other")
    )
    assert short == full
    assert short != other


async def test_an_unknown_rubric_is_answered_with_the_nearest() -> None:
    error = await failure(scorer(FakeJudgeModel(fours)), rubric="qality")
    assert error.reason == "RUBRIC_NOT_FOUND"
    assert "quality" in error.message

"""What a judge said is remembered, shared by all who ask it at the same time, and paid for once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.runtime.cache.entry import encode_entry
from services.runtime.cache.sqlite_store import SqliteCacheStore
from services.runtime.cache.store import CacheStore, NewEntry
from services.runtime.calls import bind_ids
from services.runtime.errors import (
    ResourceExhaustedError,
    UnavailableError,
)
from services.runtime.usage import Usage, usage_of
from services.scoring.contract import ScoringItem
from services.scoring.judges.asking import Asking
from services.scoring.judges.judge_model import Decoding, JudgePrompt
from services.scoring.judges.known_answers import KnownAnswers
from tests.fakes.judge_model import ANSWER_COST, LIKELIHOOD_COST, FakeJudgeModel
from tests.fakes.kept_entries import kept_keys
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.scoring.judges.asking_judges import (
    LIBRARY,
    METRICS,
    failure,
    fours,
    judged,
    scorer,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CacheStore]:
    opened = await SqliteCacheStore.open(tmp_path / "judged.sqlite3", max_bytes=2**24, metrics=METRICS)
    yield opened
    await opened.close()


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


@pytest.mark.parametrize(("answer", "is_cut"), [("?", False), ("Verdict: 4", True)])
async def test_garbage_costs_nothing_a_second_time(store: CacheStore, answer: str, is_cut: bool) -> None:
    model = FakeJudgeModel(lambda *_: answer, log_likelihoods=[-1.0] * 5)
    model.cut = is_cut
    first = await failure(scorer(model, store))
    again = await failure(scorer(model, store))
    assert (again.reason, again.message) == (first.reason, first.message)
    assert first.reason == "JUDGE_UNPARSABLE"
    assert (usage_of(first), usage_of(again)) == (ANSWER_COST, ANSWER_COST.from_cache)
    assert (len(model.asked), model.scored) == (1, [])


async def test_an_answer_is_not_paid_for_again_where_its_likelihoods_failed(store: CacheStore) -> None:
    model = FakeJudgeModel(fours, log_likelihoods=[-9.0, -9.0, -9.0, -0.7, -0.7])
    model.likelihood_failures = [UnavailableError("away")]
    error = await failure(scorer(model, store))
    assert usage_of(error) == ANSWER_COST
    second = await judged(scorer(model, store))
    assert second.usage == ANSWER_COST.from_cache + LIKELIHOOD_COST
    assert not second.cached
    third = await judged(scorer(model, store))
    assert third.usage == (ANSWER_COST + LIKELIHOOD_COST).from_cache
    assert third.metrics == second.metrics
    assert len(model.asked) == len(model.scored) == 1


async def test_of_several_answers_only_the_likelihoods_that_failed_are_asked_for_again(
    store: CacheStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FakeJudgeModel(lambda _, __, sample: f"Verdict: {4 + sample}", log_likelihoods=[-1.0] * 5)
    likelihoods, asked = model.likelihoods, 0

    async def away_once(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise UnavailableError("away")
        return await likelihoods(*args)

    monkeypatch.setattr(model, "likelihoods", away_once)
    several: dict[str, Any] = {"votes": 2, "temperature": 1.0}
    assert usage_of(await failure(scorer(model, store), **several)) == ANSWER_COST + LIKELIHOOD_COST
    found = await judged(scorer(model, store), **several)
    assert found.usage == (ANSWER_COST + LIKELIHOOD_COST).from_cache + LIKELIHOOD_COST
    assert (len(model.asked), asked) == (1, 3)


async def test_what_an_earlier_release_kept_is_still_known(store: CacheStore, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeJudgeModel(fours)
    with kept_keys(store, monkeypatch) as keys:
        await judged(scorer(model, store))
    (key,) = keys
    entry = [[["Verdict: 2", []]], {"prompt_tokens": 7}]
    await store.put(NewEntry(key, encode_entry(key, json.dumps(entry).encode())))
    found = await judged(scorer(model, store))
    assert (found.metrics["score"], found.usage) == (0.25, Usage(prompt_tokens=7, cache_saved_tokens=7))


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

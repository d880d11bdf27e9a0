"""The scorer `llm_judge`: who is asked what, what is remembered, what it costs, and what it does not guess."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from services.runtime.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from services.runtime.usage import usage_of
from services.scoring.contract import ScoringItem, TextOutput
from services.scoring.judges.rendering import Section, render
from services.scoring.judges.rubric import Rubric
from services.scoring.registry import ScorerRegistry
from services.scoring.scorers import llm_judge
from tests.fakes.judge_model import ANSWER_COST, LIKELIHOOD_COST, FakeJudgeModel, section
from tests.unit.scoring.judges.asking_judges import ITEM, PAIR, failure, fours, judged, prefers_good, scorer


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


async def test_a_judge_has_one_digest_by_whatever_name_it_goes() -> None:
    """Also as the service's judge: a record of ``calibrate-judge --judge`` then holds for tasks that name none."""
    model = FakeJudgeModel(fours)
    registry = ScorerRegistry((scorer(model, None, "judge"),))
    digests = {}
    for name, weights in (("judge", "d1"), ("models/judge", "d1"), ("copy", "d1"), ("other", "d2"), ("", "d1")):
        model.digests[f"models/{name.removeprefix('models/') or 'judge'}"] = weights
        bound = registry.bind("scorers/llm_judge", {"judges": [name]} if name else {})
        score = await bound.score_async(ScoringItem(prompt="Why?"), TextOutput("fine"))
        digests[name] = bound.reference.with_judges(score.decided_by).digest
    assert len({digests[name] for name in ("judge", "models/judge", "copy", "")}) == 1
    assert digests["other"] != digests["judge"]


async def test_an_unknown_rubric_is_answered_with_the_nearest() -> None:
    error = await failure(scorer(FakeJudgeModel(fours)), rubric="qality")
    assert error.reason == "RUBRIC_NOT_FOUND"
    assert "quality" in error.message

"""Every item ends in exactly one outcome a sample, whatever its services say."""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format

from services.evaluation.items import ChatPrompt, Choice, InvalidItem, Item, Message, MultipleChoice, PlainPrompt
from services.evaluation.runs.fatal_errors import RunCannotGoOnError
from services.evaluation.runs.outcome import Failure, JudgeReference, MetricFailure
from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.pipeline import ItemPipeline
from services.evaluation.runs.translation import result_to_proto, score_request
from services.evaluation.tasks import Task
from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from services.runtime.usage import NO_USAGE, Usage, with_usage

SAFETY = {"safety": {"aspect": "response"}}
CHOICES: dict[str, Any] = {
    "request": "multiple_choice",
    "targets": None,
    "choices": "x",
    "gold": "0",
    "scorers": [{"scorer": "multiple_choice", "metrics": [{"name": "accuracy", "from": "acc"}]}],
    "primary_metric": "accuracy",
}


def pipeline(task: Task, fleet: Any, patience_seconds: float = 0.0) -> ItemPipeline:
    return ItemPipeline(
        task,
        model="models/tiny",
        seed=7,
        generator=fleet.generator,
        safety=fleet.safety,
        scorers=fleet.scorers,
        patience_seconds=patience_seconds,
    )


async def test_a_generated_answer_is_scored_with_cost_and_judges(fleet: Any, make_task: Any, make_item: Any) -> None:
    (outcome,) = await pipeline(make_task(), fleet).outcomes(make_item("hello"), 4)

    assert outcome.failure is None
    assert outcome.metrics == {"exact_match": 1.0}
    assert (outcome.item, outcome.draw_index, outcome.prompt, outcome.output) == ("hello", 4, "hello", "HELLO")
    assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens, outcome.usage.engine_seconds) == (3, 2, 0.5)
    assert [judge.name for judge in outcome.judges] == ["scorers/exact_match"]
    assert outcome.model_digest == "digest-1"
    assert list(result_to_proto("runs/r", outcome).targets) == ["HELLO"]


async def test_choices_are_scored_under_the_tasks_metric_name(fleet: Any, make_task: Any, make_item: Any) -> None:
    item = make_item("which?", choices=["longest one", "short"], gold=1)
    (outcome,) = await pipeline(make_task(**CHOICES), fleet).outcomes(item, 0)

    assert outcome.metrics == {"accuracy": 1.0}
    assert outcome.targets == ("short",)
    assert outcome.output == '{"log_likelihoods": [-12.0, -6.0]}'


@pytest.mark.parametrize(("target", "kept"), [("é" * 2048, 1), ("é" * 2048 + "x", 0)])
async def test_long_targets_are_left_out(fleet: Any, make_task: Any, make_item: Any, target: str, kept: int) -> None:
    item = replace(make_item("hello"), targets=(target,))
    (outcome,) = await pipeline(make_task(), fleet).outcomes(item, 0)

    assert len(outcome.targets) == kept


async def test_choices_with_different_contexts_are_asked_one_request_a_context(fleet: Any, make_task: Any) -> None:
    contexts = [PlainPrompt("Ann"), PlainPrompt("Bob"), PlainPrompt("Ann")]
    choices = tuple(Choice(str(i), context, " x" * (i + 1)) for i, context in enumerate(contexts))
    item = Item("i", "shout", "x", 1, multiple_choice=MultipleChoice(choices, (0,)))

    (outcome,) = await pipeline(make_task(**CHOICES), fleet).outcomes(item, 0)

    assert fleet.generator.asked == ["Ann", "Bob"]
    assert outcome.output == '{"log_likelihoods": [-2.0, -4.0, -6.0]}'
    assert outcome.usage.prompt_tokens == 10


async def test_choices_are_also_scored_without_the_question_where_the_task_says_so(fleet: Any, make_task: Any) -> None:
    choices = tuple(Choice(text, PlainPrompt("which?"), f" {text}") for text in ("longest", "short"))
    question = MultipleChoice(choices, (1,), PlainPrompt("Answer:"))
    item = Item("i", "shout", "x", 1, multiple_choice=question)
    calls: list[ScorerCall] = []
    score = fleet.scorers.score

    async def noted(asked: Any) -> Any:
        calls.extend(asked)
        return await score(asked)

    fleet.scorers.score = noted
    (outcome,) = await pipeline(make_task(**CHOICES), fleet).outcomes(item, 0)

    assert fleet.generator.asked == ["which?", "Answer:"]
    [call] = calls
    sent = score_request(call).choices
    assert list(sent.log_likelihoods) == list(sent.unconditional_log_likelihoods) == [-8.0, -6.0]
    assert outcome.output == ('{"log_likelihoods": [-8.0, -6.0], "unconditional_log_likelihoods": [-8.0, -6.0]}')
    assert outcome.usage.prompt_tokens == 10


async def test_a_texts_likelihood_is_asked_and_judged(fleet: Any, make_task: Any) -> None:
    item = Item("i", "shout", "x", 1, prompt=PlainPrompt("so:"), scored_text="a b c", delimiter=" ", targets=("a b c",))
    calls: list[ScorerCall] = []
    score = fleet.scorers.score

    async def noted(asked: Any) -> Any:
        calls.extend(asked)
        return await score(asked)

    fleet.scorers.score = noted
    (outcome,) = await pipeline(make_task(), fleet).outcomes(item, 0)

    assert fleet.generator.asked == ["so:"]
    [call] = calls
    sent = score_request(call).token_scores
    assert (list(sent.log_likelihoods), sent.text, sent.token_count) == ([-6.0], "a b c", 3)
    assert outcome.output == '{"log_likelihoods": [-6.0], "token_count": 3}'
    assert outcome.usage.prompt_tokens == 5


async def test_an_invalid_row_fails_without_asking_anybody(fleet: Any, make_task: Any) -> None:
    row = InvalidItem("r", "shout", "x.jsonl", 3, "x.jsonl row 3: no column 'text'")
    (outcome,) = await pipeline(make_task(failed_items="wrong"), fleet).outcomes(row, 0)

    assert outcome.metrics is None
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.counted_as) == ("INVALID_ROW", {"exact_match": 0.0})
    assert fleet.generator.asked == []


async def test_a_typed_error_fails_every_sample_of_the_item(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.generator.failures["hello"] = [FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")]
    task = make_task(generation={"sample_count": 3, "temperature": 1.0})
    outcomes = await pipeline(task, fleet).outcomes(make_item("hello"), 0)

    assert [(each.sample, each.failure and each.failure.reason) for each in outcomes] == [
        (0, "PROMPT_TOO_LONG"),
        (1, "PROMPT_TOO_LONG"),
        (2, "PROMPT_TOO_LONG"),
    ]


async def test_what_a_failed_item_cost_is_counted_once(fleet: Any, make_task: Any, make_item: Any) -> None:
    spent = Usage(computed_prompt_tokens=20, cost_micro_usd=3)
    fleet.generator.failures["hello"] = [with_usage(DeadlineExceededError("late"), spent)]
    task = make_task(generation={"sample_count": 2, "temperature": 1.0})
    outcomes = await pipeline(task, fleet).outcomes(make_item("hello"), 0)

    assert [each.usage for each in outcomes] == [spent, NO_USAGE]


async def test_what_the_first_choices_cost_is_counted_though_the_others_fail(fleet: Any, make_task: Any) -> None:
    choices = tuple(Choice(name, PlainPrompt(name), " x") for name in ("Ann", "Bob"))
    fleet.generator.failures["Bob"] = [FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")]
    item = Item("i", "shout", "x", 1, multiple_choice=MultipleChoice(choices, (0,)))
    (outcome,) = await pipeline(make_task(**CHOICES), fleet).outcomes(item, 0)

    assert outcome.failure is not None
    assert outcome.usage == Usage(5, 1, 0.25)


async def test_samples_are_judged_one_by_one_and_the_seed_depends_on_the_item_alone(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    task = make_task(generation={"sample_count": 2, "temperature": 1.0})
    outcomes = await pipeline(task, fleet).outcomes(make_item("a"), 0)
    await pipeline(task, fleet).outcomes(make_item("a"), 9)
    await pipeline(task, fleet).outcomes(make_item("b"), 0)

    assert [each.sample for each in outcomes] == [0, 1]
    assert [each.usage.prompt_tokens for each in outcomes] == [3, 0]
    seeds = [options.seed for options in fleet.generator.options]
    assert seeds[0] == seeds[1] != seeds[2]


@pytest.mark.parametrize(("text", "unsafe"), [("a bad thing", 1.0), ("a nice thing", 0.0)])
async def test_the_guards_verdict_becomes_the_metric_unsafe(
    fleet: Any, make_task: Any, make_item: Any, text: str, unsafe: float
) -> None:
    (outcome,) = await pipeline(make_task(**SAFETY), fleet).outcomes(make_item(text), 0)

    assert outcome.metrics == {"exact_match": 1.0, "unsafe": unsafe}
    assert [message.role for message in fleet.safety.judged[0]] == ["user", "assistant"]
    assert [judge.name for judge in outcome.judges] == ["scorers/exact_match", "guards/g"]


async def test_a_guard_that_cannot_judge_fails_safety_alone_and_never_calls_it_safe(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    task = make_task(**SAFETY, failed_items="wrong")
    (outcome,) = await pipeline(task, fleet).outcomes(make_item("garbled"), 0)

    assert (outcome.metrics, outcome.failure) == ({"exact_match": 1.0}, None)
    (failure,) = outcome.metric_failures
    assert (failure.metrics, failure.reason) == (("unsafe",), "SAFETY_VERDICT_ERROR")
    assert failure.counted_as == {"unsafe": 1.0}
    assert outcome.output == "GARBLED"


async def test_a_guard_that_had_no_time_is_asked_again_and_calls_nothing_unsafe(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    late = DeadlineExceededError("too late")
    task = make_task(**SAFETY, failed_items="wrong")
    fleet.safety.failures = [late, late]
    (outcome,) = await pipeline(task, fleet, patience_seconds=60).outcomes(make_item("a nice thing"), 0)
    assert outcome.metrics == {"exact_match": 1.0, "unsafe": 0.0}

    fleet.safety.failures = [late]
    with pytest.raises(RunCannotGoOnError, match="the guard had no time"):
        await pipeline(task, fleet, patience_seconds=0.0).outcomes(make_item("another"), 0)


async def test_a_response_of_which_a_part_was_not_judged_is_never_called_safe(
    fleet: Any, make_task: Any, make_item: Any
) -> None:
    task = make_task(**SAFETY, failed_items="wrong")
    (nice,) = await pipeline(task, fleet).outcomes(make_item("endless nice"), 0)
    (bad,) = await pipeline(task, fleet).outcomes(make_item("endless bad"), 0)

    assert nice.metrics == {"exact_match": 1.0}
    (failure,) = nice.metric_failures
    assert (failure.reason, failure.counted_as) == ("SAFETY_TEXT_TRUNCATED", {"unsafe": 1.0})
    assert bad.metrics is not None
    assert bad.metrics["unsafe"] == 1.0


async def test_an_empty_response_says_nothing_unsafe(fleet: Any, make_task: Any, make_item: Any) -> None:
    (outcome,) = await pipeline(make_task(**SAFETY), fleet).outcomes(make_item(" "), 0)

    assert outcome.metrics is not None
    assert outcome.metrics["unsafe"] == 0.0
    assert fleet.safety.judged == []


async def test_a_service_that_comes_back_is_waited_for(fleet: Any, make_task: Any, make_item: Any) -> None:
    away = UnavailableError("restarting", retry_after_seconds=0.0)
    fleet.generator.failures["hello"] = [away, away]
    (outcome,) = await pipeline(make_task(), fleet, patience_seconds=60).outcomes(make_item("hello"), 0)

    assert outcome.failure is None
    assert len(fleet.generator.asked) == 3


@pytest.mark.parametrize("error", [NotFoundError("no such model"), UnavailableError("gone", retry_after_seconds=9)])
async def test_what_would_fail_every_item_ends_the_run_instead(
    fleet: Any, make_task: Any, make_item: Any, error: Any
) -> None:
    fleet.generator.failures["hello"] = [error]
    with pytest.raises(RunCannotGoOnError) as caught:
        await pipeline(make_task(), fleet).outcomes(make_item("hello"), 0)
    assert caught.value.error is error


@pytest.mark.parametrize("reason", ["SANDBOX_UNAVAILABLE", "SANDBOX_BUSY", "ENCODER_NOT_FOUND"])
async def test_no_item_is_wrong_where_no_program_can_be_run_or_no_text_compared(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    error = FailedPreconditionError("install it", reason=reason)

    async def refuse(_: Any) -> Any:
        raise error

    monkeypatch.setattr(fleet.scorers, "score", refuse)
    with pytest.raises(RunCannotGoOnError) as caught:
        await pipeline(make_task(), fleet).outcomes(make_item("hello"), 0)
    assert caught.value.error is error


async def test_a_metric_that_the_scorer_does_not_give_is_a_failure(fleet: Any, make_task: Any, make_item: Any) -> None:
    task = make_task(scorers=[{"scorer": "exact_match", "metrics": [{"name": "exact_match", "from": "no_such"}]}])
    (outcome,) = await pipeline(task, fleet).outcomes(make_item("hello"), 0)
    assert outcome.failure is not None
    assert outcome.failure.reason == "INTERNAL"


JUDGED: dict[str, Any] = {
    "scorers": [
        {"scorer": "exact_match", "metrics": ["exact_match"]},
        {
            "scorer": "llm_judge",
            "metrics": [{"name": "correct", "from": "passed"}, {"name": "biased", "higher_is_better": False}],
        },
    ],
}


def judge_says(fleet: Any, monkeypatch: pytest.MonkeyPatch, *said: Any) -> None:
    """Have the scorers of ``JUDGED`` give this, one after the other."""

    async def score(_: Any) -> Any:
        return said

    monkeypatch.setattr(fleet.scorers, "score", score)


def refused(reason: str, field: str) -> InvalidArgumentError:
    return InvalidArgumentError("x", reason=reason, field_violations=(FieldViolation(field, "x"),))


EXACT = ScoredOutput({"exact_match": 1.0}, "HELLO", JudgeReference("scorers/exact_match", "1", "d"))
GARBAGE = FailedPreconditionError("none of the verdicts", reason="JUDGE_UNPARSABLE")


@pytest.mark.parametrize("failed_items", ["wrong", "excluded"])
async def test_a_judge_without_a_verdict_is_an_error_of_its_metrics_and_says_nothing_of_the_answer(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch, failed_items: str
) -> None:
    judge_says(fleet, monkeypatch, EXACT, GARBAGE)
    task = make_task(**JUDGED, **SAFETY, failed_items=failed_items)
    (outcome,) = await pipeline(task, fleet).outcomes(make_item("a bad thing"), 0)

    assert outcome.failure is None
    assert outcome.metrics == {"exact_match": 1.0, "unsafe": 1.0}
    assert outcome.metric_failures == (
        MetricFailure(("correct", "biased"), "JUDGE_UNPARSABLE", "none of the verdicts", {}),
    )
    assert outcome.extracted_answer == "HELLO"
    assert [judge.name for judge in outcome.judges] == ["scorers/exact_match", "guards/g"]
    row = result_to_proto("runs/r", outcome)
    assert dict(row.scored.metrics) == outcome.metrics
    assert [list(each.metrics) for each in row.metric_failures] == [["correct", "biased"]]


async def test_an_item_that_nobody_judged_fails_and_its_value_is_not_known(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = InvalidArgumentError("too slow", reason="PROCESSOR_TIME")
    judge_says(fleet, monkeypatch, slow, GARBAGE)
    (outcome,) = await pipeline(make_task(**JUDGED), fleet).outcomes(make_item("hello"), 0)

    assert outcome.metrics is None
    # An output that a scorer cannot take counts as the task says; one that a judge cannot judge counts as nothing.
    assert outcome.failure == Failure("PROCESSOR_TIME", "too slow", {"exact_match": 0.0})
    assert [(each.metrics, each.reason) for each in outcome.metric_failures] == [
        (("exact_match",), "PROCESSOR_TIME"),
        (("correct", "biased"), "JUDGE_UNPARSABLE"),
    ]
    assert not any(each.counted_as for each in outcome.metric_failures)
    assert outcome.output == "HELLO"


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (InvalidArgumentError("x", reason="TEXT_TOO_LONG"), {"correct": 0.0, "biased": 1.0}),
        (refused("SCORER_OUT_OF_MEMORY", "text"), {"correct": 0.0, "biased": 1.0}),
        (refused("TEXT_TOO_LONG", "targets"), {}),
        (refused("TEXT_TOO_LONG", "targets[0]"), {}),
        (refused("INVALID_SCORE_REQUEST", "parameters.ignore_cas"), {}),
        (refused("INVALID_SCORE_REQUEST", "targets"), {}),
        (refused("INVALID_LOG_LIKELIHOODS", "choices"), {}),
        (refused("PATTERN_TIMEOUT", "parameters"), {}),
        (InvalidArgumentError("x", reason="JUDGE_TEXT_TOO_LONG"), {}),
        (InvalidArgumentError("x", reason="JUDGE_PROMPT_TOO_LONG"), {}),
        (DeadlineExceededError("x", reason="SCORER_TIMEOUT"), {}),
        (InternalError("x"), {}),
    ],
)
async def test_only_an_output_that_cannot_be_scored_counts_against_the_model(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch, error: Any, counted: Any
) -> None:
    judge_says(fleet, monkeypatch, EXACT, error)
    (outcome,) = await pipeline(make_task(**JUDGED), fleet).outcomes(make_item("hello"), 0)
    assert outcome.metrics == {"exact_match": 1.0}
    assert [each.counted_as for each in outcome.metric_failures] == [counted]


async def test_a_judge_that_is_gone_ends_the_run_whatever_others_said(
    fleet: Any, make_task: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge_says(fleet, monkeypatch, EXACT, NotFoundError("no model named x", reason="JUDGE_MODEL_NOT_FOUND"))
    with pytest.raises(RunCannotGoOnError):
        await pipeline(make_task(**JUDGED), fleet).outcomes(make_item("hello"), 0)


@pytest.mark.parametrize(
    ("prompt", "seen"),
    [
        (PlainPrompt("hello"), "hello"),
        (ChatPrompt((Message("user", "hello"),)), "hello"),
        (ChatPrompt((Message("system", "Shout."), Message("user", "hello"))), "system: Shout.\n\nuser: hello"),
    ],
)
async def test_a_scorer_is_told_the_prompt_if_it_asks_and_its_own_details(
    fleet: Any, make_task: Any, monkeypatch: pytest.MonkeyPatch, prompt: Any, seen: str
) -> None:
    told: list[ScorerCall] = []
    score = fleet.scorers.score

    async def note(calls: Any) -> Any:
        told.extend(calls)
        return await score(calls)

    monkeypatch.setattr(fleet.scorers, "score", note)
    uses = [
        {"scorer": "exact_match", "metrics": ["exact_match"]},
        {"scorer": "exact_match", "metrics": [{"name": "again", "from": "exact_match"}], "prompt": True},
    ]
    task = make_task(scorers=uses)
    details: tuple[dict[str, Any], ...] = ({}, {"kinds": ["a", None, {"b": 1}], "n": 3})
    item = Item("i", "shout", "x", 1, prompt=prompt, targets=("a",), details=details)
    await pipeline(task, fleet).outcomes(item, 0)

    assert [call.prompt for call in told] == ["", seen]
    plain, full = (score_request(call) for call in told)
    assert not plain.HasField("details")
    assert full.prompt == seen
    assert json_format.MessageToDict(full.details) == details[1]

"""Scorers and guards in Inspect AI, over real gRPC on fakes: what nobody knows is never a pass."""

import math
from typing import Any

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.errors import InvalidArgumentError, NotFoundError
from evalfleet.plugins.inspect import fleet_guard, fleet_scorer
from evalfleet.plugins.inspect.score_values import known_value
from evalfleet.plugins.inspect.scorers import unjudged
from evalfleet.safety.v1 import safety_pb2
from evalfleet.scoring.v1 import scoring_pb2
from google.protobuf import json_format
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentReasoning,
    ContentText,
    ModelName,
    ModelOutput,
)
from inspect_ai.scorer import CORRECT, INCORRECT, NOANSWER, SampleScore, Score, Target, value_to_float
from inspect_ai.solver import TaskState
from inspect_ai.tool import ToolCall

from tests.fakes.fleet import FakeFleet
from tests.fakes.refusing import fail

SAFE, UNSAFE, CONTROVERSIAL, ERROR = (
    safety_pb2.DECISION_SAFE,
    safety_pb2.DECISION_UNSAFE,
    safety_pb2.DECISION_CONTROVERSIAL,
    safety_pb2.DECISION_ERROR,
)


def state(answer: str = "It is Paris.") -> TaskState:
    asked = ChatMessageUser(content="Where?")
    said = ChatMessageAssistant(content=answer)
    return TaskState(
        model=ModelName("mockllm/model"),
        sample_id=1,
        epoch=1,
        input="Where?",
        messages=[asked, said],
        output=ModelOutput.from_content("m", answer),
        metadata={"schema": {"type": "object"}},
    )


@pytest.fixture
def scoring(fake: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> FakeFleet:
    """A scoring service that has the scorers exact_match, and token_f1 with several metrics."""

    def get(request: scoring_pb2.GetScorerRequest, _: grpc.ServicerContext) -> scoring_pb2.GetScorerResponse:
        return scoring_pb2.GetScorerResponse(
            scorer=scoring_pb2.Scorer(name=request.name, reads_prompt=request.name == "scorers/llm_judge")
        )

    def score(request: scoring_pb2.ScoreRequest, context: grpc.ServicerContext) -> scoring_pb2.ScoreResponse:
        fake.scoring.requests.append(request)
        if request.text == "?":
            fail(context, grpc.StatusCode.FAILED_PRECONDITION, "it says nothing", reason="JUDGE_UNPARSABLE")
        if request.text == "!":
            fail(context, grpc.StatusCode.INVALID_ARGUMENT, "no such parameter", reason="SCORER_PARAMETERS_INVALID")
        metrics = {"scorers/token_f1": {"f1": 0.5, "precision": 1.0}}.get(request.scorer, {"exact_match": 1.0})
        reference = common_pb2.JudgeReference(name=request.scorer, digest="d")
        return scoring_pb2.ScoreResponse(metrics=metrics, extracted_answer="Paris", scorer=reference)

    monkeypatch.setattr(fake.scoring, "GetScorer", get)
    monkeypatch.setattr(fake.scoring, "Score", score)
    # Servicers are bound when they are added.
    fake.stop()
    fake.start()
    return fake


async def test_a_scorer_judges_what_was_said(scoring: FakeFleet) -> None:
    judge = fleet_scorer("exact_match", parameters={"strip": True}, details={"json_schema": "schema"},
                         endpoint=scoring.target)  # fmt: skip
    score = await judge(state(), Target(["Paris", "paris"]))
    assert score is not None
    assert (score.value, score.answer) == (1.0, "Paris")
    [request] = scoring.scoring.requests
    assert (request.scorer, request.text, list(request.targets)) == (
        "scorers/exact_match", "It is Paris.", ["Paris", "paris"],
    )  # fmt: skip
    assert request.parameters["strip"] is True
    assert json_format.MessageToDict(request.details) == {"json_schema": {"type": "object"}}
    assert not request.prompt


async def test_a_judge_that_reads_prompts_is_told_it(scoring: FakeFleet) -> None:
    await fleet_scorer("llm_judge", metric="exact_match", endpoint=scoring.target)(state(), Target("x"))
    assert scoring.scoring.requests[0].prompt == "Where?"


async def test_of_several_metrics_one_must_be_chosen(scoring: FakeFleet) -> None:
    score = await fleet_scorer("token_f1", metric="f1", endpoint=scoring.target)(state(), Target("x"))
    assert score is not None
    assert score.value == 0.5
    assert score.metadata is not None
    assert score.metadata["metrics"] == {"f1": 0.5, "precision": 1.0}
    for metric in (None, "recall"):
        with pytest.raises(InvalidArgumentError, match="f1, precision"):
            await fleet_scorer("token_f1", metric=metric, endpoint=scoring.target)(state(), Target("x"))


async def test_what_a_judge_does_not_say_is_unscored_and_a_wrong_parameter_is_an_error(scoring: FakeFleet) -> None:
    judge = fleet_scorer("exact_match", endpoint=scoring.target)
    score = await judge(state("?"), Target("x"))
    assert score is not None
    assert isinstance(score.value, float)
    assert math.isnan(score.value)
    assert (score.reason, score.explanation) == ("grader_failed", "it says nothing")
    with pytest.raises(InvalidArgumentError, match="no such parameter"):
        await judge(state("!"), Target("x"))


@pytest.mark.parametrize(
    ("verdict", "value"),
    [
        (safety_pb2.Verdict(decision=SAFE, unsafe_probability=0.1), CORRECT),
        (safety_pb2.Verdict(decision=UNSAFE), INCORRECT),
        (safety_pb2.Verdict(decision=CONTROVERSIAL), INCORRECT),
        (safety_pb2.Verdict(decision=ERROR), NOANSWER),
        (safety_pb2.Verdict(), NOANSWER),
        (safety_pb2.Verdict(decision=SAFE, truncated=True), NOANSWER),
        (safety_pb2.Verdict(decision=UNSAFE, truncated=True), INCORRECT),
    ],
)
async def test_only_a_safe_verdict_on_the_whole_text_passes(
    fake: FakeFleet, verdict: safety_pb2.Verdict, value: str
) -> None:
    fake.safety.verdict = verdict
    score = await fleet_guard(endpoint=fake.target)(state(), Target(""))
    assert score is not None
    assert score.value == value
    assert (value_to_float()(score.value) == 1.0) == (value == CORRECT)
    assert (score.reason == "grader_failed") == (value == NOANSWER)
    share: Any = unjudged()
    assert share([SampleScore(score=score), SampleScore(score=Score(value=CORRECT))]) == (value == NOANSWER) / 2


async def test_a_guard_that_fails_on_a_text_passes_nothing(fake: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: safety_pb2.ClassifyRequest, context: grpc.ServicerContext) -> safety_pb2.ClassifyResponse:
        fail(context, grpc.StatusCode.INVALID_ARGUMENT, "too deep", reason="TEXT_TOO_DEEP")

    monkeypatch.setattr(fake.safety, "Classify", refuse)
    fake.stop()
    fake.start()
    score = await fleet_guard(endpoint=fake.target)(state(), Target(""))
    assert score is not None
    assert (score.value, score.explanation) == (NOANSWER, "too deep")


async def test_a_guard_that_there_is_not_is_an_error(fake: FakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: safety_pb2.ClassifyRequest, context: grpc.ServicerContext) -> safety_pb2.ClassifyResponse:
        fail(context, grpc.StatusCode.NOT_FOUND, "no such guard", reason="GUARD_NOT_FOUND")

    monkeypatch.setattr(fake.safety, "Classify", refuse)
    fake.stop()
    fake.start()
    with pytest.raises(NotFoundError):
        await fleet_guard("x", endpoint=fake.target)(state(), Target(""))


async def test_a_guard_reads_the_conversation_up_to_what_it_judges(fake: FakeFleet) -> None:
    await fleet_guard("minilm-hazard", threshold=0.3, endpoint=fake.target)(state(), Target(""))
    await fleet_guard(aspect="prompt", policy="strict", endpoint=fake.target)(state(), Target(""))
    response, prompt = fake.safety.requests
    assert [each.content for each in response.conversation.messages] == ["Where?", "It is Paris."]
    assert (response.aspect, response.guard, response.threshold) == (
        safety_pb2.ASPECT_RESPONSE, "guards/minilm-hazard", 0.3,
    )  # fmt: skip
    assert [each.content for each in prompt.conversation.messages] == ["Where?"]
    assert (prompt.aspect, prompt.policy) == (safety_pb2.ASPECT_PROMPT, "policies/strict")


async def test_a_guard_reads_what_tools_are_asked_and_answer_and_no_reasoning(fake: FakeFleet) -> None:
    agent = state()
    thought = ContentReasoning(reasoning="They want Paris.")
    call = ToolCall(id="1", function="search", arguments={"query": "où"})
    agent.messages = [
        ChatMessageUser(content="Where?"),
        ChatMessageAssistant(content=[thought], tool_calls=[call]),
        ChatMessageTool(content="A map.", function="search"),
        ChatMessageAssistant(content=[thought, ContentText(text="It is Paris.")]),
    ]
    for aspect in ("response", "prompt"):
        score = await fleet_guard(aspect=aspect, endpoint=fake.target)(agent, Target(""))
        assert score is not None
        assert score.value != NOANSWER
    response, prompt = fake.safety.requests
    assert [(each.role, each.content) for each in response.conversation.messages] == [
        (common_pb2.ROLE_USER, "Where?"),
        (common_pb2.ROLE_ASSISTANT, '[Calls the tool search] {"query": "où"}'),
        (common_pb2.ROLE_USER, "[The tool search answered]\nA map."),
        (common_pb2.ROLE_ASSISTANT, "It is Paris."),
    ]
    assert [each.content for each in prompt.conversation.messages] == ["Where?"]


async def test_what_a_guard_cannot_read_passes_nothing(fake: FakeFleet) -> None:
    seen = state()
    seen.messages = [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")]), *seen.messages[1:]]
    score = await fleet_guard(endpoint=fake.target)(seen, Target(""))
    assert score is not None
    assert (score.value, score.metadata) == (NOANSWER, {"error": "CONTENT_NOT_OFFERED"})
    assert not fake.safety.requests


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (Score(value=CORRECT), (1.0, "")),
        (Score(value="P"), (0.5, "")),
        (Score(value=NOANSWER), (0.0, "")),
        (Score(value=NOANSWER, reason="grader_failed"), (None, "GRADER_FAILED")),
        (Score.unscored(), (None, "SCORE_MISSING")),
        (Score(value=7), (None, "SCORE_OUT_OF_RANGE")),
        (Score(value={"a": 1, "b": 0}), (None, "SCORE_MISSING")),
        (Score(value=[1, 0]), (None, "SCORE_MISSING")),
    ],
)
def test_a_score_counts_only_where_somebody_knows_it(score: Score, expected: tuple[float | None, str]) -> None:
    assert known_value({"one": SampleScore(score=score)}, None, None) == expected


def test_the_score_that_counts_is_named() -> None:
    scores = {"a": SampleScore(score=Score(value=1)), "b": SampleScore(score=Score(value={"x": 0.25}))}
    assert known_value(scores, None, None) == (None, "SCORER_NOT_NAMED")
    assert known_value(scores, "b", "x") == (0.25, "")
    assert known_value(scores, "c", None) == (None, "SCORE_MISSING")

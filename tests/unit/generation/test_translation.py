import math
from collections.abc import Callable

import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2
from google.protobuf.duration_pb2 import Duration

from services.generation import model_messages, translation
from services.generation.requests import (
    Completion,
    ContinuationScore,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Sampling,
    ScoringRequest,
    ScoringResult,
    Turn,
    Usage,
)
from services.runtime.errors import InvalidArgumentError

USER = common_pb2.Message(role=common_pb2.ROLE_USER, content="Hi")


def fields_of(check: Callable[[], object]) -> set[str]:
    with pytest.raises(InvalidArgumentError) as caught:
        check()
    return {violation.field for violation in caught.value.field_violations}


def generate(**parameters: object) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(**{"model": "models/m", "prompt": "x"} | parameters)  # type: ignore[arg-type]


def test_what_is_absent_takes_the_contracts_defaults() -> None:
    assert translation.generation_request(generate()) == GenerationRequest(
        model_id="m",
        prompt="x",
        sampling=Sampling(max_tokens=256, temperature=0.0, top_p=1.0, top_k=0, stop=(), seed=None),
        sample_count=1,
        truncate=False,
    )


def test_everything_given_arrives() -> None:
    conversation = common_pb2.Conversation(
        messages=[
            common_pb2.Message(role=common_pb2.ROLE_SYSTEM, content="S"),
            USER,
            common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content="The answer is"),
        ]
    )
    message = generation_pb2.GenerateRequest(
        model="models/a.b-c_1",
        conversation=conversation,
        sampling=generation_pb2.SamplingParameters(
            max_tokens=1, temperature=2.0, top_p=0.5, top_k=7, stop=["\n"], seed=-5
        ),
        sample_count=128,
        truncation=generation_pb2.TRUNCATION_POLICY_LEFT,
    )
    assert translation.generation_request(message) == GenerationRequest(
        model_id="a.b-c_1",
        prompt=(Turn("system", "S"), Turn("user", "Hi"), Turn("assistant", "The answer is")),
        sampling=Sampling(max_tokens=1, temperature=2.0, top_p=0.5, top_k=7, stop=("\n",), seed=-5),
        sample_count=128,
        truncate=True,
    )


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"max_tokens": -1}, "sampling.max_tokens"),
        ({"max_tokens": 2**31 - 1}, "sampling.max_tokens"),
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": 2.01}, "sampling.temperature"),
        ({"temperature": math.nan}, "sampling.temperature"),
        ({"temperature": math.inf}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"top_p": math.nan}, "sampling.top_p"),
        ({"top_k": -1}, "sampling.top_k"),
        ({"stop": ["a", ""]}, "sampling.stop[1]"),
        ({"stop": ["x" * 1025]}, "sampling.stop[0]"),
        ({"stop": ["a"] * 17}, "sampling.stop"),
    ],
)
def test_absurd_sampling_is_refused(sampling: dict[str, object], field: str) -> None:
    message = generate(sampling=generation_pb2.SamplingParameters(**sampling))  # type: ignore[arg-type]
    assert fields_of(lambda: translation.generation_request(message)) == {field}


@pytest.mark.parametrize("count", [0, -1, 129])
def test_sample_counts_outside_the_limits_are_refused(count: int) -> None:
    message = generate(sample_count=count, sampling=generation_pb2.SamplingParameters(temperature=1.0))
    assert fields_of(lambda: translation.generation_request(message)) == {"sample_count"}


def test_several_greedy_samples_are_refused() -> None:
    assert fields_of(lambda: translation.generation_request(generate(sample_count=2))) == {"sample_count"}


@pytest.mark.parametrize("name", ["", "m", "models/", "models/a/b", "runs/m"])
def test_model_must_be_a_resource_name(name: str) -> None:
    assert fields_of(lambda: translation.generation_request(generate(model=name))) == {"model"}
    assert fields_of(lambda: model_messages.model_id_of(name)) == {"name"}


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        ([], {"conversation.messages"}),
        ([common_pb2.Message(content="x")], {"conversation.messages[0].role"}),
        ([common_pb2.Message(role=99, content="x")], {"conversation.messages[0].role"}),  # type: ignore[arg-type]
        ([USER, common_pb2.Message(role=common_pb2.ROLE_SYSTEM, content="x")], {"conversation.messages[1].role"}),
        ([common_pb2.Message(role=common_pb2.ROLE_USER)], {"conversation.messages[0].content"}),
    ],
)
def test_bad_conversations_are_refused(messages: list[common_pb2.Message], fields: set[str]) -> None:
    conversation = common_pb2.Conversation(messages=messages)
    generation = generation_pb2.GenerateRequest(model="models/m", conversation=conversation)
    assert fields_of(lambda: translation.generation_request(generation)) == fields
    scoring = generation_pb2.ScoreContinuationsRequest(model="models/m", conversation=conversation, continuations=["a"])
    assert fields_of(lambda: translation.scoring_request(scoring)) == fields


def test_every_bad_field_is_listed_at_once() -> None:
    message = generation_pb2.GenerateRequest(
        model="m",
        prompt="",
        sampling=generation_pb2.SamplingParameters(max_tokens=0, temperature=-1, top_p=0, top_k=-1, stop=[""]),
        sample_count=0,
        truncation=9,  # type: ignore[arg-type]
    )
    assert fields_of(lambda: translation.generation_request(message)) == {
        "model",
        "prompt",
        "sampling.max_tokens",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.top_k",
        "sampling.stop[0]",
        "sample_count",
        "truncation",
    }


def test_a_request_needs_an_input() -> None:
    assert fields_of(lambda: translation.generation_request(generation_pb2.GenerateRequest(model="models/m"))) == {
        "prompt"
    }
    scoring = generation_pb2.ScoreContinuationsRequest(model="models/m", continuations=["a"])
    assert fields_of(lambda: translation.scoring_request(scoring)) == {"prompt"}


def test_scoring_takes_an_empty_context() -> None:
    message = generation_pb2.ScoreContinuationsRequest(model="models/m", prompt="", continuations=["a", "b"])
    assert translation.scoring_request(message) == ScoringRequest("m", "", ("a", "b"), truncate=False)


@pytest.mark.parametrize(
    ("continuations", "field"), [([], "continuations"), (["a"] * 257, "continuations"), (["a", ""], "continuations[1]")]
)
def test_bad_continuations_are_refused(continuations: list[str], field: str) -> None:
    message = generation_pb2.ScoreContinuationsRequest(model="models/m", prompt="x", continuations=continuations)
    assert fields_of(lambda: translation.scoring_request(message)) == {field}


@pytest.mark.parametrize("count", [0, 257])
def test_batches_have_limits(count: int) -> None:
    assert fields_of(lambda: translation.check_batch_size(count)) == {"requests"}


def test_answers_are_written_whole() -> None:
    result = GenerationResult(
        [Completion("a", FinishReason.STOP, 3), Completion("b", FinishReason.LENGTH, 4)], Usage(5, 7, 1.25), "d", True
    )
    assert translation.generation_response(result) == generation_pb2.GenerateResponse(
        completions=[
            generation_pb2.Completion(text="a", finish_reason=generation_pb2.FINISH_REASON_STOP, token_count=3),
            generation_pb2.Completion(text="b", finish_reason=generation_pb2.FINISH_REASON_LENGTH, token_count=4),
        ],
        usage=common_pb2.Usage(
            prompt_tokens=5, completion_tokens=7, engine_time=Duration(seconds=1, nanos=250_000_000)
        ),
        model_digest="d",
        truncated=True,
    )


def test_scores_are_written_whole() -> None:
    result = ScoringResult([ContinuationScore(-1.5, True, 2)], Usage(5, 2, 0.0), "d", False)
    assert translation.scoring_response(result) == generation_pb2.ScoreContinuationsResponse(
        scores=[generation_pb2.ContinuationScore(log_likelihood=-1.5, is_greedy=True, token_count=2)],
        usage=common_pb2.Usage(prompt_tokens=5, completion_tokens=2, engine_time=Duration()),
        model_digest="d",
    )

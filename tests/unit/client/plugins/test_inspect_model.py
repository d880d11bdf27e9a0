"""Inspect AI's model over real gRPC, on a fake service that may refuse."""

from typing import Any

import grpc
import pytest
from evalfleet.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from evalfleet.generation.v1 import generation_pb2
from evalfleet.plugins.inspect.model import EvalFleetAPI
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    Model,
    RetryDecision,
    get_model,
)
from inspect_ai.tool import ToolInfo
from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base

from tests.fakes.generation_service import GenerationServer, refusal


@pytest.fixture
def model(generation: GenerationServer) -> Model:
    return get_model("evalfleet/step-100", base_url=generation.target, memoize=False)


async def test_inspect_finds_the_provider_by_its_entry_point(model: Model) -> None:
    assert isinstance(model.api, EvalFleetAPI)
    assert str(model) == "evalfleet/step-100"


async def test_messages_and_options_reach_the_service(generation: GenerationServer, model: Model) -> None:
    turns: list[ChatMessage] = [
        ChatMessageSystem(content="Be brief."),
        ChatMessageUser(content=[ContentText(text="hi"), ContentText(text="there")]),
        ChatMessageAssistant(content="Well,"),
    ]
    config = GenerateConfig(
        max_tokens=9, temperature=0.5, top_p=0.9, top_k=4, seed=3, stop_seqs=["\n"], num_choices=2, max_connections=1
    )
    output = await model.generate(turns, config=config)
    [request] = generation.service.generated
    assert request.model == "models/step-100"
    assert [each.content for each in request.conversation.messages] == ["Be brief.", "hi\nthere", "Well,"]
    assert request.sampling == generation_pb2.SamplingParameters(
        max_tokens=9, temperature=0.5, top_p=0.9, top_k=4, seed=3, stop=["\n"]
    )
    assert (request.sample_count, request.priority) == (2, generation_pb2.PRIORITY_EVALUATION)
    assert [each.message.text for each in output.choices] == ["Well,#0", "Well,#1"]
    assert output.stop_reason == "max_tokens"
    assert output.usage is not None
    assert (output.usage.input_tokens, output.usage.output_tokens, output.usage.total_tokens) == (5, 2, 7)
    assert output.metadata == {"model_digest": "ab" * 32, "is_cached": False}


@pytest.mark.parametrize(
    ("status", "error", "decision"),
    [
        (refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=7), ResourceExhaustedError,
         RetryDecision.rate_limit(retry_after=7)),
        (refusal(grpc.StatusCode.UNAVAILABLE), UnavailableError, RetryDecision.transient()),
        (refusal(grpc.StatusCode.DEADLINE_EXCEEDED), DeadlineExceededError, RetryDecision.transient()),
        (refusal(grpc.StatusCode.INVALID_ARGUMENT), InvalidArgumentError, RetryDecision.no()),
        (refusal(grpc.StatusCode.FAILED_PRECONDITION), FailedPreconditionError, RetryDecision.no()),
    ],
)  # fmt: skip
async def test_errors_are_typed_and_say_whether_to_come_back(
    generation: GenerationServer, model: Model, status: Any, error: type[Exception], decision: RetryDecision
) -> None:
    # gRPC repeats no call by itself here: generating is not among the calls that it may repeat.
    generation.service.refusals.append(status)
    with pytest.raises(error) as raised:
        await model.api.generate([ChatMessageUser(content="hi")], [], "auto", GenerateConfig())
    assert model.api.should_retry(raised.value) == decision
    assert len(generation.service.generated) == 1


async def test_inspect_comes_back_when_it_is_asked_to(generation: GenerationServer, model: Model) -> None:
    generation.service.refusals.append(refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_seconds=0.01))
    output = await model.generate("hi")
    assert output.completion == "hi#0"
    assert len(generation.service.generated) == 2


@pytest.mark.parametrize(
    ("error", "at_least", "at_most"),
    [
        (ResourceExhaustedError("full", retry_after_seconds=7), 7, 7),
        (ResourceExhaustedError("full"), 1, 3),
        (UnavailableError("away"), 1, 3),
    ],
)
def test_the_pause_is_the_one_that_the_service_names(
    model: Model, error: Exception, at_least: float, at_most: float
) -> None:
    retrying = RetryCallState(retry_object=Retrying(), fn=None, args=(), kwargs={})
    retrying.set_exception((type(error), error, None))
    wait = model.api.retry_wait()
    assert isinstance(wait, wait_base)
    assert at_least <= wait(retrying) <= at_most


@pytest.mark.parametrize(
    "option", [{"logprobs": True}, {"best_of": 2}, {"frequency_penalty": 0.5}, {"logit_bias": {1: 2.0}}]
)
async def test_an_option_that_the_fleet_has_not_is_refused_by_name(
    generation: GenerationServer, model: Model, option: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(option))) as refused:
        await model.generate("hi", config=GenerateConfig(**option))
    assert refused.value.reason == "OPTION_NOT_OFFERED"
    assert not generation.service.generated


@pytest.mark.parametrize(
    "message",
    [
        ChatMessageTool(content="42", tool_call_id="1"),
        ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AAAA")]),
    ],
)
async def test_what_a_text_model_cannot_read_is_refused(model: Model, message: ChatMessage) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await model.api.generate([message], [], "auto", GenerateConfig())
    assert refused.value.reason == "CONTENT_NOT_OFFERED"


async def test_tools_are_refused(model: Model) -> None:
    tool = ToolInfo(name="add", description="Adds.")
    with pytest.raises(InvalidArgumentError, match="do not call tools"):
        await model.api.generate([ChatMessageUser(content="hi")], [tool], "auto", GenerateConfig())


def test_a_wrong_name_is_told_once_and_early(generation: GenerationServer) -> None:
    with pytest.raises(NotFoundError, match="step-100"):
        get_model("evalfleet/step-10", base_url=generation.target, memoize=False)
    with pytest.raises(InvalidArgumentError, match="priority"):
        get_model("evalfleet/step-100", base_url=generation.target, memoize=False, priority="urgent")

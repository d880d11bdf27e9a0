"""Judge models over gRPC; the generation service behind it is a fake that notes what it is sent."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc, model_pb2, model_pb2_grpc
from google.protobuf.duration_pb2 import Duration

from services.runtime.errors import FailedPreconditionError, FleetError, NotFoundError, UnimplementedError
from services.runtime.server import HostedService
from services.runtime.spending import open_account
from services.runtime.testing import serve_in_process
from services.runtime.usage import Usage
from services.scoring.judges.judge_model import Decoding, JudgePrompt, ModelIdentity
from services.scoring.judges.remote_model import RemoteJudgeModel
from tests.patience import LONGEST_WAIT_SECONDS

NAMES = [
    file.services_by_name[name].full_name
    for file, name in ((generation_pb2.DESCRIPTOR, "GenerationService"), (model_pb2.DESCRIPTOR, "ModelService"))
]
USAGE = common_pb2.Usage(prompt_tokens=7, computed_prompt_tokens=5, engine_time=Duration(nanos=500_000_000))


class FakeGeneration(generation_pb2_grpc.GenerationServiceServicer, model_pb2_grpc.ModelServiceServicer):
    """Knows one model; answers the same to everything."""

    def __init__(self) -> None:
        self.model = model_pb2.Model(name="models/judge", digest="d1", state=model_pb2.MODEL_STATE_READY)
        self.requests: list[Any] = []
        self.failure: FleetError | None = None
        self.lookups = 0
        self.asked = asyncio.Event()
        self.gate: asyncio.Event | None = None

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Any) -> model_pb2.GetModelResponse:
        self.lookups += 1
        if request.name != self.model.name:
            raise NotFoundError(f"no model named {request.name}", reason="MODEL_NOT_FOUND")
        return model_pb2.GetModelResponse(model=self.model)

    async def Generate(self, request: generation_pb2.GenerateRequest, context: Any) -> generation_pb2.GenerateResponse:
        self.requests.append(request)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        ended = (generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH)
        return generation_pb2.GenerateResponse(
            completions=[
                generation_pb2.Completion(text=f"t{index}", finish_reason=ended[index % 2])
                for index in range(request.sample_count)
            ],
            usage=USAGE,
            model_digest=self.model.digest,
        )

    async def ScoreContinuations(
        self, request: generation_pb2.ScoreContinuationsRequest, context: Any
    ) -> generation_pb2.ScoreContinuationsResponse:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        scores = [generation_pb2.ContinuationScore(log_likelihood=-float(len(each))) for each in request.continuations]
        return generation_pb2.ScoreContinuationsResponse(scores=scores, usage=USAGE, model_digest=self.model.digest)


@pytest.fixture
def fake() -> FakeGeneration:
    return FakeGeneration()  # type: ignore[abstract]  # what is not asked for is not offered


@pytest.fixture
async def model(fake: FakeGeneration) -> AsyncIterator[RemoteJudgeModel]:
    def add(server: grpc.aio.Server) -> None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(fake, server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)

    async with serve_in_process(HostedService(NAMES[0], add)) as channel:
        yield RemoteJudgeModel(channel, timeout_seconds=LONGEST_WAIT_SECONDS)


def asked(text: str, *begun: str) -> common_pb2.Conversation:
    turns = [common_pb2.Message(role=common_pb2.ROLE_USER, content=text)]
    turns += [common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content=each) for each in begun]
    return common_pb2.Conversation(messages=turns)


async def test_answers_say_whether_they_are_complete_and_what_they_cost(
    model: RemoteJudgeModel, fake: FakeGeneration
) -> None:
    found = await model.answer("models/judge", JudgePrompt("judge this", "chat"), Decoding(50, 0.5, 3, 2))
    assert [(each.text, each.is_complete) for each in found.answers] == [("t0", True), ("t1", False)]
    assert found.usage == Usage(prompt_tokens=7, computed_prompt_tokens=5, engine_seconds=0.5)
    assert found.model_digest == "d1"
    (request,) = fake.requests
    assert request.conversation == asked("judge this")
    assert (request.sampling.seed, request.sampling.max_tokens, request.sampling.temperature) == (3, 50, 0.5)


async def test_who_leaves_pays_for_the_question(model: RemoteJudgeModel, fake: FakeGeneration) -> None:
    booked: list[Usage] = []
    open_account(booked.append)
    prompt = JudgePrompt("judge this" * 12, "chat")
    await model.likelihoods("models/judge", prompt, "", ["\nV: 1"])
    fake.gate = asyncio.Event()
    call = asyncio.create_task(model.answer("models/judge", prompt, Decoding(50, 0.0, 0, 1)))
    await fake.asked.wait()
    call.cancel()
    await asyncio.wait([call])
    told = Usage(prompt_tokens=7, computed_prompt_tokens=5, engine_seconds=0.5)
    assert booked == [told, Usage(prompt_tokens=20, computed_prompt_tokens=20)]


async def test_a_plain_prompt_and_a_greedy_answer(model: RemoteJudgeModel, fake: FakeGeneration) -> None:
    await model.answer("models/judge", JudgePrompt("judge this", "plain"), Decoding(50, 0.0, 3, 1))
    await model.likelihoods("models/judge", JudgePrompt("judge this", "plain"), " So.", ["\nVerdict: 1"])
    generated, scored = fake.requests
    assert generated.prompt == "judge this\n\nJudgement:"
    assert not generated.sampling.HasField("seed")
    assert scored.prompt == "judge this\n\nJudgement: So."


async def test_likelihoods_go_on_from_the_reasons(model: RemoteJudgeModel, fake: FakeGeneration) -> None:
    found = await model.likelihoods("models/judge", JudgePrompt("judge this", "chat"), "\nSo.", ["\nV: 1", "\nV: 10"])
    assert found is not None
    assert (found.values, found.model_digest) == ((-5.0, -6.0), "d1")
    assert fake.requests[0].conversation == asked("judge this", "So.")


@pytest.mark.parametrize(
    "failure",
    [
        UnimplementedError("no scores", reason="FOREIGN_SCORING_UNSUPPORTED"),
        FailedPreconditionError("not this turn", reason="CHAT_TEMPLATE_REJECTED"),
    ],
)
async def test_a_model_may_have_no_likelihoods(
    model: RemoteJudgeModel, fake: FakeGeneration, failure: FleetError
) -> None:
    fake.failure = failure
    assert await model.likelihoods("models/judge", JudgePrompt("x", "chat"), "", ["a"]) is None


async def test_other_failures_are_raised(model: RemoteJudgeModel, fake: FakeGeneration) -> None:
    fake.failure = FailedPreconditionError("too long", reason="PROMPT_TOO_LONG")
    with pytest.raises(FailedPreconditionError):
        await model.likelihoods("models/judge", JudgePrompt("x", "chat"), "", ["a"])
    with pytest.raises(NotFoundError):
        await model.identity("models/other")


async def test_an_identity_is_believed_until_an_answer_denies_it(model: RemoteJudgeModel, fake: FakeGeneration) -> None:
    assert await model.identity("models/judge") == ModelIdentity("d1", is_known=True)
    assert (await model.identity("models/judge"), fake.lookups) == (ModelIdentity("d1", is_known=True), 1)
    fake.model.digest = "d2"
    await model.answer("models/judge", JudgePrompt("x", "chat"), Decoding(5, 0.0, 0, 1))
    assert (await model.identity("models/judge")).digest == "d2"
    fake.model.digest = "d3"
    await model.likelihoods("models/judge", JudgePrompt("x", "chat"), "", ["a"])
    assert (await model.identity("models/judge")).digest == "d3"


async def test_a_foreign_model_without_a_revision_may_be_anything(
    model: RemoteJudgeModel, fake: FakeGeneration
) -> None:
    fake.model.foreign.target = "triton:8001"
    assert not (await model.identity("models/judge")).is_known


async def test_a_foreign_model_with_a_revision_is_known(model: RemoteJudgeModel, fake: FakeGeneration) -> None:
    fake.model.foreign.revision = "r1"
    assert (await model.identity("models/judge")).is_known


@pytest.mark.parametrize(
    ("state", "digest", "reason"),
    [(model_pb2.MODEL_STATE_FAILED, "d1", "MODEL_FAILED"), (model_pb2.MODEL_STATE_LOADING, "", "MODEL_LOADING")],
)
async def test_a_model_that_cannot_be_asked_says_why(
    model: RemoteJudgeModel, fake: FakeGeneration, state: model_pb2.ModelState.ValueType, digest: str, reason: str
) -> None:
    fake.model.state, fake.model.digest = state, digest
    with pytest.raises(FleetError) as failed:
        await model.identity("models/judge")
    assert failed.value.reason == reason

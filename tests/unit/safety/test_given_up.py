"""Whoever leaves before its verdict is there pays for what guards' models had begun, over real gRPC."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from services.runtime.errors import from_rpc_error
from services.runtime.security.caller_keys import new_key
from services.runtime.settings import ServiceSettings
from services.runtime.spending import open_account
from services.runtime.testing import serve_in_process
from services.runtime.usage import Usage
from services.safety.booked_models import BookedClassifier, BookedLanguageModel
from services.safety.catalogue import GuardCatalogue
from services.safety.classifier_guard import ClassifierGuard
from services.safety.guard import LabelledText
from services.safety.reading import LabelReader
from services.safety.service import hosted
from tests.fakes.classifier import LABELS, FakeClassifier, answer, cost_of, description, guard_file
from tests.fakes.guard import prompts
from tests.fakes.language_model import ANSWER_COST, SCORING_COST, FakeLanguageModel, guard_of, prompt_turn
from tests.patience import LONGEST_WAIT_SECONDS


def as_it_is(usage: Usage) -> Usage:
    return usage


async def test_a_cancelled_call_moves_the_quota(tmp_path: Path) -> None:
    key, digest = new_key()
    (tmp_path / "keys.toml").write_text(f'[callers.team]\nroles = ["classify"]\nsha256 = ["{digest}"]\n')
    (tmp_path / "quotas.toml").write_text("[default]\ntokens_per_day = 20\n")
    settings = ServiceSettings(
        port=0,
        metrics_port=0,
        caller_keys=tmp_path / "keys.toml",
        caller_quotas=tmp_path / "quotas.toml",
        audit_file=tmp_path / "audit.jsonl",
    )
    asked, left = asyncio.Event(), asyncio.Event()

    async def classify(texts: Sequence[str]) -> Sequence[LabelledText]:
        asked.set()
        try:
            await asyncio.Event().wait()
            return ()
        finally:
            left.set()

    classifier = BookedClassifier(FakeClassifier(classify), as_it_is, most_tokens=None)
    guard = ClassifierGuard(description("fake"), classifier, LabelReader(LABELS, guard_file()), timeout_seconds=30)
    async with serve_in_process(hosted(GuardCatalogue([guard])), settings=settings) as channel:
        stub = safety_pb2_grpc.SafetyServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        turn = common_pb2.Message(role=common_pb2.ROLE_USER, content="p" * 120)
        request = safety_pb2.ClassifyRequest(
            conversation=common_pb2.Conversation(messages=[turn]), aspect=safety_pb2.ASPECT_PROMPT
        )
        call = asyncio.ensure_future(stub.Classify(request, metadata=metadata, timeout=LONGEST_WAIT_SECONDS))
        await asked.wait()
        call.cancel()
        await left.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Classify(request, metadata=metadata, timeout=LONGEST_WAIT_SECONDS)
    assert from_rpc_error(caught.value).reason == "CALLER_QUOTA_EXHAUSTED"


async def test_what_verdicts_tell_is_what_is_booked() -> None:
    booked: list[Usage] = []
    open_account(booked.append)
    classifier = BookedClassifier(FakeClassifier(lambda _: [answer(0.1, num_tokens=5)] * 2), as_it_is, most_tokens=9)
    reader = LabelReader(LABELS, guard_file())
    verdicts = await ClassifierGuard(description("fake"), classifier, reader, timeout_seconds=30).judge(
        prompts("one", "two")
    )
    model = BookedLanguageModel(FakeLanguageModel("safe"), as_it_is)
    [verdict] = await guard_of("llama-guard-3", model).judge([prompt_turn()])  # type: ignore[arg-type]
    assert verdict.usage == ANSWER_COST + SCORING_COST
    assert booked == [cost_of(5) + cost_of(5), ANSWER_COST, SCORING_COST]
    assert verdicts[0].usage + verdicts[1].usage == booked[0]


async def test_a_text_costs_no_more_than_is_read_of_it() -> None:
    booked: list[Usage] = []
    open_account(booked.append)
    classifier = BookedClassifier(
        FakeClassifier(lambda _: asyncio.Event().wait()), as_it_is, most_tokens=9  # type: ignore[arg-type, return-value]
    )  # fmt: skip
    call = asyncio.create_task(classifier.classify(["x" * 600, "y" * 30], timeout_seconds=30))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert [each.computed_prompt_tokens for each in booked] == [9 + 5]

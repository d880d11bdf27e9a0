"""The safety service over gRPC, with fake classifiers behind its guards."""

import json
import math
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import pytest
from evalfleet.common.v1 import common_pb2
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runtime.errors import FailedPreconditionError, FleetError, UnavailableError, from_rpc_error, from_status
from services.runtime.security.audit import AuditLog
from services.runtime.testing import as_bytes, serve_in_process
from services.safety.catalogue import GuardCatalogue
from services.safety.classifier_guard import ClassifierGuard
from services.safety.guard import LabelledText
from services.safety.judgement import Aspect
from services.safety.policies import Policy, PolicyCatalogue, PolicyHazard
from services.safety.reading import LabelReader
from services.safety.service import hosted
from tests.fakes.classifier import LABELS, FakeClassifier, answer, description, guard_file

Stub: TypeAlias = "safety_pb2_grpc.SafetyServiceAsyncStub"
DECISION = safety_pb2.Decision


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def other() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def catalogue(classifier: FakeClassifier, other: FakeClassifier) -> GuardCatalogue:
    reader = LabelReader(LABELS, guard_file())
    return GuardCatalogue(
        [
            ClassifierGuard(description(), classifier, reader, timeout_seconds=30),
            ClassifierGuard(description("answers-only", (Aspect.RESPONSE,)), other, reader, timeout_seconds=30),
        ]
    )


@pytest.fixture
async def channel(catalogue: GuardCatalogue) -> AsyncIterator[grpc.aio.Channel]:
    policies = PolicyCatalogue(
        [
            Policy("policies/soft", "2", "Little counts.", threshold=0.9),
            Policy("policies/insults", hazards=(PolicyHazard("tests/insult", 0.2),)),
            Policy("policies/answers", aspects=(Aspect.RESPONSE,), guards=("guards/fake", "guards/answers-only")),
            Policy("policies/unfit", hazards=(PolicyHazard("cse"),)),
        ]
    )
    async with serve_in_process(hosted(catalogue, policies)) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Stub:
    return safety_pb2_grpc.SafetyServiceStub(channel)


def prompt(text: str, **fields: Any) -> safety_pb2.ClassifyRequest:
    conversation = common_pb2.Conversation(messages=[common_pb2.Message(role=common_pb2.ROLE_USER, content=text)])
    return safety_pb2.ClassifyRequest(conversation=conversation, aspect=safety_pb2.ASPECT_PROMPT, **fields)


def away(texts: Sequence[str]) -> Sequence[LabelledText]:
    raise UnavailableError("away", reason="GUARD_UNAVAILABLE")


async def failure(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_safe_verdict(stub: Stub) -> None:
    verdict = (await stub.Classify(prompt("a" * 250))).verdict
    assert verdict.decision == DECISION.DECISION_SAFE
    assert verdict.unsafe_probability == 0.25
    assert verdict.threshold_applied == 0.5
    assert not verdict.categories
    assert verdict.error_reason == ""
    assert verdict.guard.name == "guards/fake"
    assert {len(verdict.guard.weights_digest), len(verdict.guard.calibration_digest)} == {64}


async def test_an_unsafe_verdict_names_categories_most_probable_first(stub: Stub, classifier: FakeClassifier) -> None:
    classifier.answer = lambda texts: [answer(0.5, 0.6, 0.9)]
    verdict = (await stub.Classify(prompt("x"))).verdict
    assert verdict.decision == DECISION.DECISION_UNSAFE
    assert verdict.unsafe_probability == 0.9
    assert [(each.taxonomy, each.code, each.ailuminate_code) for each in verdict.categories] == [
        ("tests", "insult", ""),
        ("tests", "violence", "vcr"),
    ]


async def test_an_error_verdict_has_no_probability(stub: Stub, classifier: FakeClassifier) -> None:
    classifier.answer = lambda texts: [answer(math.nan)]
    verdict = (await stub.Classify(prompt("x"))).verdict
    assert verdict.decision == DECISION.DECISION_ERROR
    assert verdict.error_reason == "PROBABILITY_NOT_FINITE"
    assert not verdict.HasField("unsafe_probability")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (safety_pb2.ClassifyRequest(), "aspect"),
        (safety_pb2.ClassifyRequest(aspect=safety_pb2.ASPECT_PROMPT), "conversation.messages"),
        (prompt(""), "conversation.messages[0].content"),
        (prompt("x", judged_turn=1), "judged_turn"),
        (prompt("x", threshold=0.0), "threshold"),
        (prompt("x", guard="fake"), "guard"),
        (prompt("x", guard="guards/"), "guard"),
        (prompt("x", guard="guards/answers-only"), "aspect"),
        (
            safety_pb2.ClassifyRequest(
                aspect=safety_pb2.ASPECT_PROMPT,
                conversation=common_pb2.Conversation(messages=[common_pb2.Message(content="x")]),
            ),
            "conversation.messages[0].role",
        ),
    ],
)
async def test_a_bad_request_names_its_field(stub: Stub, request_: safety_pb2.ClassifyRequest, field: str) -> None:
    error = await failure(stub.Classify(request_))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.field_violations] == [field]


async def test_an_unknown_guard_gets_the_nearest_name(stub: Stub) -> None:
    for call in (
        stub.Classify(prompt("x", guard="guards/fakes")),
        stub.GetGuard(safety_pb2.GetGuardRequest(name="guards/fakes")),
    ):
        error = await failure(call)
        assert error.code is grpc.StatusCode.NOT_FOUND
        assert "guards/fake" in error.metadata["nearest"].split(",")
    error = await failure(stub.GetGuard(safety_pb2.GetGuardRequest(name="fake")))
    assert [each.field for each in error.field_violations] == ["name"]


async def test_a_guard_that_is_away_is_an_error_status(stub: Stub, classifier: FakeClassifier) -> None:
    classifier.answer = away
    for call in (
        stub.Classify(prompt("x")),
        stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=[prompt("x"), prompt("")])),
    ):
        error = await failure(call)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "GUARD_UNAVAILABLE")


async def test_a_batch_keeps_its_order_and_bad_items_to_themselves(stub: Stub, classifier: FakeClassifier) -> None:
    requests = [prompt("a" * 100), prompt(""), prompt("b" * 600), prompt("c", guard="guards/nobody"), prompt("d" * 300)]
    results = (await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=requests))).results
    assert [result.WhichOneof("outcome") for result in results] == ["verdict", "status", "verdict", "status", "verdict"]
    assert [round(results[index].verdict.unsafe_probability, 6) for index in (0, 2, 4)] == [0.1, 0.6, 0.3]
    assert len(classifier.requests) == 1
    empty, unknown = from_status(results[1].status), from_status(results[3].status)
    assert empty.field_violations[0].field == "requests[1].conversation.messages[0].content"
    assert unknown.code is grpc.StatusCode.NOT_FOUND


async def test_a_request_of_a_batch_that_is_no_text_fails_alone(channel: grpc.aio.Channel) -> None:
    message = safety_pb2.BatchClassifyRequest(requests=[prompt("a" * 100), prompt("##"), prompt("b" * 600), prompt("")])
    batch = channel.unary_unary(
        "/evalfleet.safety.v1.SafetyService/BatchClassify", as_bytes, safety_pb2.BatchClassifyResponse.FromString
    )
    results = (await batch(message.SerializeToString().replace(b"##", b"\xff\xfe"))).results
    assert [result.WhichOneof("outcome") for result in results] == ["verdict", "status", "verdict", "status"]
    assert [round(results[index].verdict.unsafe_probability, 6) for index in (0, 2)] == [0.1, 0.6]
    assert [from_status(results[index].status).reason for index in (1, 3)] == ["MALFORMED_REQUEST", "TEXT_EMPTY"]


async def test_a_batch_equals_single_calls(stub: Stub) -> None:
    requests = [prompt("x" * length) for length in (1, 10, 499, 500, 999, 5000)]
    batch = await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=requests))
    for request, result in zip(requests, batch.results, strict=True):
        assert (await stub.Classify(request)).verdict == result.verdict


async def test_one_guard_away_leaves_the_others_verdicts(
    stub: Stub, classifier: FakeClassifier, other: FakeClassifier
) -> None:
    other.answer = away
    spoken = safety_pb2.ClassifyRequest(
        conversation=common_pb2.Conversation(
            messages=[common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content="well")]
        ),
        aspect=safety_pb2.ASPECT_RESPONSE,
        guard="guards/answers-only",
    )
    results = (await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=[prompt("x"), spoken]))).results
    assert results[0].verdict.decision == DECISION.DECISION_SAFE
    assert from_status(results[1].status).code is grpc.StatusCode.UNAVAILABLE


async def test_an_unusable_item_of_a_batch_is_an_error_verdict(stub: Stub, classifier: FakeClassifier) -> None:
    def poisoned(texts: Sequence[str]) -> Sequence[LabelledText]:
        if "poison" in texts:
            raise FailedPreconditionError("nan", reason="NONFINITE_LOGITS")
        return [answer(0.1) for _ in texts]

    classifier.answer = poisoned
    requests = [prompt("a"), prompt("poison"), prompt("c")]
    results = (await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=requests))).results
    assert [result.verdict.decision for result in results] == [
        DECISION.DECISION_SAFE,
        DECISION.DECISION_ERROR,
        DECISION.DECISION_SAFE,
    ]


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_of_another_size_is_refused(stub: Stub, count: int) -> None:
    error = await failure(stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=[prompt("x")] * count)))
    assert error.field_violations[0].field == "requests"


async def test_guards_are_listed_in_pages(stub: Stub) -> None:
    first = await stub.ListGuards(safety_pb2.ListGuardsRequest(page_size=1))
    assert [guard.name for guard in first.guards] == ["guards/answers-only"]
    second = await stub.ListGuards(safety_pb2.ListGuardsRequest(page_size=1, page_token=first.next_page_token))
    assert [guard.name for guard in second.guards] == ["guards/fake"]
    assert second.next_page_token == ""
    assert (await failure(stub.ListGuards(safety_pb2.ListGuardsRequest(page_token="???")))).code is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


async def test_a_guard_says_what_it_can_do(stub: Stub) -> None:
    guard = (await stub.GetGuard(safety_pb2.GetGuardRequest(name="guards/fake"))).guard
    assert list(guard.aspects) == [safety_pb2.ASPECT_PROMPT, safety_pb2.ASPECT_RESPONSE]
    assert {category.code: category.ailuminate_code for category in guard.categories} == {
        "violence": "vcr",
        "insult": "",
    }
    assert (guard.default_threshold, guard.max_tokens) == (0.5, 128)
    assert guard.reference.engine == "fake"


WILD = st.one_of(
    st.text(),
    st.sampled_from(
        ["\x00", "a\x00b", "\u202eevil\u202c", "שלום עולם", "👩‍👩‍👧‍👦" * 50, "é" * 3, "\u200b", "\ufeff", "ﷺ" * 100]
    ),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(texts=st.lists(WILD, min_size=1, max_size=8))
async def test_wild_texts_get_a_verdict_or_a_documented_status(
    stub: Stub, classifier: FakeClassifier, texts: list[str]
) -> None:
    results = (
        await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=[prompt(text) for text in texts]))
    ).results
    for text, result in zip(texts, results, strict=True):
        if text.strip():
            assert result.verdict.decision in (DECISION.DECISION_SAFE, DECISION.DECISION_UNSAFE)
        else:
            assert from_status(result.status).reason == "TEXT_EMPTY"
    if any(text.strip() for text in texts):
        assert classifier.requests[-1] == tuple(text for text in texts if text.strip())


async def test_a_hundred_kilobytes_arrive_whole(stub: Stub, classifier: FakeClassifier) -> None:
    text = "ab\x00🙂" * 20_000
    assert (await stub.Classify(prompt(text))).verdict.decision == DECISION.DECISION_UNSAFE
    assert classifier.requests == [(text,)]


def answered(text: str, **fields: Any) -> safety_pb2.ClassifyRequest:
    conversation = common_pb2.Conversation(messages=[common_pb2.Message(role=common_pb2.ROLE_ASSISTANT, content=text)])
    return safety_pb2.ClassifyRequest(conversation=conversation, aspect=safety_pb2.ASPECT_RESPONSE, **fields)


async def test_a_named_policy_is_applied_and_told(stub: Stub) -> None:
    verdict = (await stub.Classify(prompt("a" * 600, policy="policies/soft"))).verdict
    assert (verdict.decision, verdict.threshold_applied) == (DECISION.DECISION_SAFE, 0.9)
    assert (verdict.policy.name, verdict.policy.version, len(verdict.policy.digest)) == ("policies/soft", "2", 64)
    assert not verdict.guard_verdicts
    assert not (await stub.Classify(prompt("a"))).verdict.HasField("policy")


async def test_a_policys_hazard_may_count_from_below_the_guards_threshold_on(
    stub: Stub, classifier: FakeClassifier
) -> None:
    classifier.answer = lambda texts: [answer(0.1, 0.45, 0.25) for _ in texts]
    verdict = (await stub.Classify(prompt("x", policy="policies/insults"))).verdict
    assert (verdict.decision, verdict.unsafe_probability) == (DECISION.DECISION_UNSAFE, 0.25)
    assert [each.code for each in verdict.categories] == ["insult"]
    assert (await stub.Classify(prompt("x"))).verdict.decision == DECISION.DECISION_SAFE


async def test_an_inline_policy_decides_like_a_named_one(stub: Stub) -> None:
    inline = safety_pb2.Policy(threshold=0.9)
    verdict = (await stub.Classify(prompt("a" * 600, inline_policy=inline))).verdict
    named = (await stub.Classify(prompt("a" * 600, policy="policies/soft"))).verdict
    assert (verdict.decision, verdict.policy.digest) == (named.decision, named.policy.digest)
    assert verdict.policy.name == ""


async def test_a_callers_own_policy_is_written_down_once(catalogue: GuardCatalogue, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    own = prompt("x", inline_policy=safety_pb2.Policy(threshold=0.9))
    async with serve_in_process(hosted(catalogue, audit=AuditLog(audit))) as channel:
        stub = safety_pb2_grpc.SafetyServiceStub(channel)
        for caller in ("a", "a", "b"):
            verdict = (await stub.Classify(own, metadata=(("evalfleet-caller", caller),))).verdict
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(each["event"], each["caller"]) for each in lines] == [
        ("inline_policy_used", "a"),
        ("inline_policy_used", "b"),
    ]
    assert {each["digest"] for each in lines} == {verdict.policy.digest}


async def test_several_guards_of_a_policy_judge_and_each_is_told(stub: Stub, other: FakeClassifier) -> None:
    other.answer = lambda texts: [answer(0.7) for _ in texts]
    requests = [answered("a" * length, policy="policies/answers") for length in (100, 600)]
    results = (await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=requests))).results
    for request, result in zip(requests, results, strict=True):
        verdict = result.verdict
        assert verdict == (await stub.Classify(request)).verdict
        assert verdict.decision == DECISION.DECISION_UNSAFE
        assert [each.guard.name for each in verdict.guard_verdicts] == ["guards/fake", "guards/answers-only"]
    assert [result.verdict.guard.name for result in results] == ["guards/answers-only", "guards/fake"]


async def test_a_guard_of_a_policy_that_is_away_is_not_left_out(stub: Stub, other: FakeClassifier) -> None:
    other.answer = away
    requests = [answered("a", policy="policies/answers"), answered("a")]
    results = (await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=requests))).results
    assert from_status(results[0].status).reason == "GUARD_UNAVAILABLE"
    assert results[1].verdict.decision == DECISION.DECISION_SAFE
    error = await failure(stub.Classify(requests[0]))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "GUARD_UNAVAILABLE")


async def test_what_one_guard_calls_unsafe_is_unsafe_while_another_is_away(
    stub: Stub, classifier: FakeClassifier, other: FakeClassifier
) -> None:
    classifier.answer = lambda texts: [answer(0.6, 0.9)]
    other.answer = away
    request = answered("a", policy="policies/answers")
    [result] = (await stub.BatchClassify(safety_pb2.BatchClassifyRequest(requests=[request]))).results
    verdict = result.verdict
    assert (verdict.decision, verdict.error_reason) == (DECISION.DECISION_UNSAFE, "")
    assert [each.code for each in verdict.categories] == ["violence"]
    assert [(each.guard.name, each.decision, each.error_reason) for each in verdict.guard_verdicts] == [
        ("guards/fake", DECISION.DECISION_UNSAFE, ""),
        ("guards/answers-only", DECISION.DECISION_ERROR, "GUARD_UNAVAILABLE"),
    ]
    assert verdict == (await stub.Classify(request)).verdict


INLINE = safety_pb2.Policy


@pytest.mark.parametrize(
    ("request_", "field", "reason"),
    [
        (prompt("x", policy="soft"), "policy", "NAME_INVALID"),
        (prompt("x", policy="policies/soft", inline_policy=INLINE()), "inline_policy", "POLICY_TWICE"),
        (prompt("x", policy="policies/soft", threshold=0.5), "threshold", "POLICY_CONTRADICTED"),
        (prompt("x", policy="policies/insults", threshold=0.5), "threshold", "POLICY_CONTRADICTED"),
        (prompt("x", policy="policies/answers"), "aspect", "ASPECT_NOT_JUDGED"),
        (answered("x", policy="policies/answers", guard="guards/fake"), "guard", "POLICY_CONTRADICTED"),
        (prompt("x", inline_policy=INLINE(name="policies/soft")), "inline_policy.name", "POLICY_INVALID"),
        (prompt("x", inline_policy=INLINE(digest="0")), "inline_policy.digest", "POLICY_INVALID"),
        (prompt("x", inline_policy=INLINE(threshold=2)), "inline_policy.threshold", "POLICY_INVALID"),
        (prompt("x", inline_policy=INLINE(combination=9)), "inline_policy.combination", "POLICY_INVALID"),  # type: ignore[arg-type]
        (prompt("x", inline_policy=INLINE(on_error=9)), "inline_policy.on_error", "POLICY_INVALID"),  # type: ignore[arg-type]
        (prompt("x", inline_policy=INLINE(aspects=[0])), "inline_policy.aspects[0]", "POLICY_INVALID"),  # type: ignore[list-item]
        (prompt("x", inline_policy=INLINE(guards=["guards/f"])), "inline_policy.guards[0]", "POLICY_INVALID"),
        (
            prompt("x", inline_policy=INLINE(hazards=[safety_pb2.PolicyHazard(code="S10")])),
            "inline_policy.hazards[0].code",
            "POLICY_INVALID",
        ),
        (
            prompt("x", inline_policy=INLINE(hazards=[safety_pb2.PolicyHazard(code="cse")])),
            "inline_policy.hazards[0].code",
            "POLICY_INVALID",
        ),
    ],
)
async def test_a_policy_that_contradicts_or_makes_no_sense_is_refused(
    stub: Stub, request_: safety_pb2.ClassifyRequest, field: str, reason: str
) -> None:
    error = await failure(stub.Classify(request_))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [each.field for each in error.field_violations] == [field]


async def test_what_a_policy_leaves_open_or_says_itself_may_be_given(stub: Stub) -> None:
    for request_ in (
        prompt("x", policy="policies/soft", threshold=0.9, guard="guards/fake"),
        prompt("x", inline_policy=INLINE(guards=["guards/fake"]), threshold=0.2, guard="guards/fake"),
    ):
        assert (await stub.Classify(request_)).verdict.guard.name == "guards/fake"


async def test_a_policy_that_no_guard_can_apply_says_so(stub: Stub) -> None:
    error = await failure(stub.Classify(prompt("x", policy="policies/unfit")))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POLICY_NOT_APPLICABLE")
    policy = (await stub.GetPolicy(safety_pb2.GetPolicyRequest(name="policies/unfit"))).policy
    assert "'cse' is not known to guards/fake" in policy.problem


async def test_policies_are_listed_in_pages_and_read(stub: Stub) -> None:
    first = await stub.ListPolicies(safety_pb2.ListPoliciesRequest(page_size=3))
    second = await stub.ListPolicies(safety_pb2.ListPoliciesRequest(page_size=3, page_token=first.next_page_token))
    names = [policy.name for policy in [*first.policies, *second.policies]]
    assert names == ["policies/answers", "policies/insults", "policies/soft", "policies/unfit"]
    policy = (await stub.GetPolicy(safety_pb2.GetPolicyRequest(name="policies/insults"))).policy
    assert [(each.code, each.threshold) for each in policy.hazards] == [("tests/insult", 0.2)]
    assert (policy.combination, policy.on_error) == (
        safety_pb2.COMBINATION_ANY_UNSAFE,
        safety_pb2.ERROR_HANDLING_ERROR,
    )
    assert policy.problem == ""
    assert (await failure(stub.GetPolicy(safety_pb2.GetPolicyRequest(name="policies/insult")))).metadata["nearest"]

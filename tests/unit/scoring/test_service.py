"""The scoring service over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any, TypeAlias

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc
from google.protobuf import json_format, struct_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.runtime.errors import FleetError, from_rpc_error, from_status
from services.runtime.item_streams import StreamLimits
from services.runtime.testing import as_bytes, serve_in_process
from services.scoring.admission import Admission
from services.scoring.contract import MetricDescription, Output, Score, ScorerDescription, ScorerParameters, ScoringItem
from services.scoring.judging import Judging
from services.scoring.pool.pool import ScorerPool
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import ScoringServicer, hosted
from tests.patience import LONGEST_WAIT_SECONDS

Stub: TypeAlias = "scoring_pb2_grpc.ScoringServiceAsyncStub"


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with serve_in_process(hosted(ScorerRegistry(builtin_scorers()))) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Stub:
    return scoring_pb2_grpc.ScoringServiceStub(channel)


def request(scorer: str, text: str, *targets: str, **parameters: Any) -> scoring_pb2.ScoreRequest:
    message = scoring_pb2.ScoreRequest(scorer=f"scorers/{scorer}", text=text, targets=targets)
    json_format.ParseDict(parameters, message.parameters)
    return message


async def failure(call: Any) -> FleetError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_scores_text(stub: Stub) -> None:
    response = await stub.Score(request("exact_match", "the paris", "Paris", pattern=r"the (\w+)", ignore_case=True))
    assert dict(response.metrics) == {"exact_match": 1.0}
    assert response.extracted_answer == "paris"
    assert response.scorer.name == "scorers/exact_match"
    assert len(response.scorer.digest) == 64


async def test_an_answer_that_was_not_found_is_absent(stub: Stub) -> None:
    assert not (await stub.Score(request("numeric_answer", "none", "1"))).HasField("extracted_answer")
    assert (await stub.Score(request("exact_match", "", ""))).HasField("extracted_answer")


async def test_scores_choices(stub: Stub) -> None:
    message = scoring_pb2.ScoreRequest(
        scorer="scorers/multiple_choice",
        choices=scoring_pb2.ChoiceScores(log_likelihoods=[-2.0, -3.0], choices=["a", "abc"]),
        gold_indices=[1],
    )
    assert dict((await stub.Score(message)).metrics) == {"acc": 0.0, "acc_norm": 1.0, "acc_bytes": 1.0}


async def test_errors_are_typed(stub: Stub) -> None:
    missing = await failure(stub.Score(request("exactmatch", "a", "a")))
    assert (missing.code, missing.reason) == (grpc.StatusCode.NOT_FOUND, "SCORER_NOT_FOUND")
    empty = await failure(stub.Score(scoring_pb2.ScoreRequest(scorer="scorers/refusal")))
    assert [violation.field for violation in empty.field_violations] == ["output"]
    wrong = await failure(stub.Score(request("exact_match", "a", "a", patern="b")))
    assert wrong.code == grpc.StatusCode.INVALID_ARGUMENT
    assert wrong.field_violations[0].field == "parameters.patern"


async def test_a_number_that_is_none_is_refused(stub: Stub) -> None:
    message = request("numeric_answer", "1", "1")
    message.parameters.fields["tolerance"].CopyFrom(struct_pb2.Value(number_value=float("nan")))
    assert (await failure(stub.Score(message))).field_violations[0].field == "parameters.tolerance"


async def test_a_batch_gives_one_result_each_in_order(stub: Stub) -> None:
    texts = [str(number) for number in range(50)]
    requests = [request("exact_match", text, "7") for text in texts]
    requests[3] = request("nothing", "a")
    requests[20] = request("exact_match", "a" * 80 + "b", "x", pattern="(a|aa)+$")
    results = (await stub.BatchScore(scoring_pb2.BatchScoreRequest(requests=requests))).results
    assert len(results) == 50
    assert from_status(results[3].status).reason == "SCORER_NOT_FOUND"
    assert from_status(results[20].status).reason == "PATTERN_TIMEOUT"
    values = {
        index: result.response.metrics["exact_match"] for index, result in enumerate(results) if index not in (3, 20)
    }
    assert [index for index, value in values.items() if value == 1.0] == [7]
    assert [result.response.extracted_answer for result in results[4:20]] == texts[4:20]


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_has_1_to_256_requests(stub: Stub, count: int) -> None:
    requests = [request("refusal", "no")] * count
    error = await failure(stub.BatchScore(scoring_pb2.BatchScoreRequest(requests=requests)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_BATCH")


class Broken:
    """A scorer with a bug."""

    about = ScorerDescription("broken", "1", "Fails.", (MetricDescription("none", "Never given."),))
    parameters_type = ScorerParameters

    def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        raise ZeroDivisionError("secret detail")


async def test_a_bug_costs_one_result_and_leaks_nothing() -> None:
    async with serve_in_process(hosted(ScorerRegistry((*builtin_scorers(), Broken())))) as channel:
        client = scoring_pb2_grpc.ScoringServiceStub(channel)
        batch = scoring_pb2.BatchScoreRequest(requests=[request("broken", "a"), request("refusal", "I must decline.")])
        broken, fine = (await client.BatchScore(batch)).results
    error = from_status(broken.status)
    assert error.code == grpc.StatusCode.INTERNAL
    assert "secret" not in str(broken)
    assert fine.response.metrics["refused"] == 1.0


async def test_a_request_has_at_most_a_thousand_samples(stub: Stub) -> None:
    many = scoring_pb2.ScoreRequest(scorer="scorers/code_execution")
    many.samples.texts.extend(["pass"] * 1001)
    error = await failure(stub.Score(many))
    assert error.reason == "INVALID_SCORE_REQUEST"
    assert [each.field for each in error.field_violations] == ["samples"]


async def test_the_event_loop_goes_on_while_a_pattern_runs() -> None:
    """A pattern of a second, and the loop turns meanwhile: it counts turns, not time."""
    servicer = ScoringServicer(ScorerRegistry(builtin_scorers()), Judging(ScorerPool(), Admission()))
    context: Any = None
    slow = asyncio.create_task(servicer.Score(request("exact_match", "a" * 80 + "b", "x", pattern="(a|aa)+$"), context))
    turns = 0
    while not slow.done():
        await asyncio.sleep(0.01)
        turns += 1
    with pytest.raises(FleetError):
        await slow
    assert turns > 10


async def test_lists_and_reads_scorers(stub: Stub) -> None:
    first = await stub.ListScorers(scoring_pb2.ListScorersRequest(page_size=3))
    rest = await stub.ListScorers(scoring_pb2.ListScorersRequest(page_size=1000, page_token=first.next_page_token))
    listed = [*first.scorers, *rest.scorers]
    assert len(first.scorers) == 3
    assert [scorer.name for scorer in listed] == sorted(f"scorers/{each.about.name}" for each in builtin_scorers())
    assert rest.next_page_token == ""
    for scorer in listed:
        assert (await stub.GetScorer(scoring_pb2.GetScorerRequest(name=scorer.name))).scorer == scorer
    scorers = {scorer.name: scorer for scorer in listed}
    parameters = {parameter.name: parameter for parameter in scorers["scorers/exact_match"].parameters}
    assert parameters["fallback"].default_value.string_value == "[invalid]"
    assert parameters["regexes_to_ignore"].type == "list of string"
    assert parameters["regexes_to_ignore"].default_value.HasField("list_value")
    assert parameters["pattern"].default_value.HasField("null_value")
    assert parameters["filters"].type == "list of object"
    choice_metrics = [metric.name for metric in scorers["scorers/multiple_choice"].metrics]
    assert choice_metrics == ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]
    takes_long = {name.removeprefix("scorers/") for name, scorer in scorers.items() if scorer.takes_long}
    assert takes_long >= {"code_execution", "math_equivalence"}
    assert not takes_long & {"exact_match", "multiple_choice"}
    assert {name: [each.name for each in scorers[f"scorers/{name}"].libraries] for name in ("bleu", "token_f1")} == {
        "bleu": ["regex", "sacrebleu"],
        "token_f1": [],
    }
    assert scorers["scorers/bleu"].libraries[1].version == version("sacrebleu")
    error = await failure(stub.GetScorer(scoring_pb2.GetScorerRequest(name="scorers/refusl")))
    assert "refusal" in error.metadata["nearest"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["pattern", "group", "take", "mode", "tolerance", "window_characters", "regexes_to_ignore", "x"]
)


def as_value(value: Any) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case _:
            return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[as_value(each) for each in value]))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
@given(
    scorer=st.sampled_from([*(each.about.name for each in builtin_scorers() if not each.about.is_heavy), "none", ""]),
    parameters=st.dictionaries(NAMES, VALUES, max_size=3),
    output=st.one_of(
        st.none(),
        st.text(max_size=30),
        st.tuples(st.lists(st.floats(), max_size=4), st.lists(st.text(max_size=4), max_size=4)),
    ),
    targets=st.lists(st.text(max_size=8), max_size=3),
    gold=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2),
)
def test_wild_requests_score_within_zero_and_one_or_fail_typed(
    scorer: str, parameters: dict[str, Any], output: Any, targets: list[str], gold: list[int]
) -> None:
    message = scoring_pb2.ScoreRequest(scorer=f"scorers/{scorer}", targets=targets, gold_indices=gold)
    for name, value in parameters.items():
        message.parameters.fields[name].CopyFrom(as_value(value))
    if isinstance(output, str):
        message.text = output
    elif output is not None:
        message.choices.log_likelihoods.extend(output[0])
        message.choices.choices.extend(output[1])
    servicer = ScoringServicer(ScorerRegistry(builtin_scorers()), Judging(ScorerPool(), Admission()))
    context: Any = None
    try:
        response = asyncio.run(servicer.Score(message, context))
    except FleetError:
        return
    assert response.metrics
    assert all(0.0 <= value <= 1.0 for value in response.metrics.values())


async def test_a_request_of_a_batch_that_is_no_text_fails_alone(channel: grpc.aio.Channel) -> None:
    message = scoring_pb2.BatchScoreRequest(
        requests=[request("exact_match", "Paris", "Paris"), request("exact_match", "##", "Paris")]
    )
    batch = channel.unary_unary(
        "/evalfleet.scoring.v1.ScoringService/BatchScore", as_bytes, scoring_pb2.BatchScoreResponse.FromString
    )
    good, bad = (await batch(message.SerializeToString().replace(b"##", b"\xff\xfe"))).results
    assert dict(good.response.metrics) == {"exact_match": 1.0}
    assert from_status(bad.status).reason == "MALFORMED_REQUEST"


class Stuck:
    """A scorer that waits for ever, or until it is let go."""

    about = ScorerDescription("stuck", "1", "Waits.", (MetricDescription("none", "Never given."),))
    parameters_type = ScorerParameters

    def __init__(self) -> None:
        self.waiting = 0
        self.begun = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()

    async def score(self, parameters: ScorerParameters, item: ScoringItem, output: Output) -> Score:
        self.waiting += 1
        self.begun.release()
        await self.let_go.wait()
        return Score({"none": 0.0}, None)


def item(item_id: str, asked: scoring_pb2.ScoreRequest) -> scoring_pb2.StreamScoreRequest:
    return scoring_pb2.StreamScoreRequest(item_id=item_id, request=asked)


async def next_outcome(call: Any) -> scoring_pb2.StreamScoreResponse:
    outcome = await call.read()
    assert isinstance(outcome, scoring_pb2.StreamScoreResponse)
    return outcome


async def test_a_stream_gives_each_item_its_outcome(stub: Stub) -> None:
    sent = [item(str(number), request("exact_match", str(number), "7")) for number in range(600)]
    sent[5] = item("5", request("nothing", "a"))
    sent[6] = item("4", request("exact_match", "a", "a"))
    sent[8] = item("8", request("exact_match", "a", "a", patern="x"))
    outcomes = [outcome async for outcome in stub.StreamScore(iter(sent))]
    assert len(outcomes) == 600
    scored = {outcome.item_id: outcome.response for outcome in outcomes if outcome.HasField("response")}
    failed = {from_status(outcome.status).reason for outcome in outcomes if outcome.HasField("status")}
    assert sorted(scored, key=int) == [str(number) for number in range(600) if number not in (5, 6, 8)]
    assert [key for key, each in scored.items() if each.metrics["exact_match"] == 1.0] == ["7"]
    assert failed == {"SCORER_NOT_FOUND", "ITEM_ID_REUSED", "INVALID_SCORE_REQUEST"}


async def test_items_of_one_message_have_their_outcomes_together(stub: Stub) -> None:
    message = item("0", request("exact_match", "0", "7"))
    for number in range(1, 50):
        message.more.add(item_id=str(number), request=request("exact_match", str(number), "7"))
    outcomes = [outcome async for outcome in stub.StreamScore(iter([message]))]
    ids = [outcome.item_id for outcome in outcomes] + [each.item_id for outcome in outcomes for each in outcome.more]
    assert sorted(ids, key=int) == [str(number) for number in range(50)]
    assert len(outcomes) < 50


async def test_who_waits_holds_nobody_up_in_a_stream_and_the_window_holds() -> None:
    stuck = Stuck()
    limits = StreamLimits(in_flight=4, item_seconds=LONGEST_WAIT_SECONDS)
    registry = ScorerRegistry((*builtin_scorers(), stuck))
    async with serve_in_process(hosted(registry, stream_limits=limits)) as channel:
        call = scoring_pb2_grpc.ScoringServiceStub(channel).StreamScore()
        await call.write(item("stuck", request("stuck", "a")))
        for number in range(20):
            await call.write(item(str(number), request("exact_match", "a", "a")))
        told = [(await next_outcome(call)).item_id for _ in range(20)]
        assert sorted(told, key=int) == [str(number) for number in range(20)]
        for number in range(20, 30):
            await call.write(item(str(number), request("stuck", "a")))
        for _ in range(4):
            await stuck.begun.acquire()
        # The window is full: there is no fifth.
        assert stuck.waiting == 4
        stuck.let_go.set()
        await call.done_writing()
        rest = [(await next_outcome(call)).item_id for _ in range(11)]
        assert sorted(rest) == ["20", *(str(number) for number in range(21, 30)), "stuck"]
        assert await call.read() is grpc.aio.EOF


async def test_an_item_of_a_stream_that_is_late_is_late_alone() -> None:
    limits = StreamLimits(in_flight=4, item_seconds=0.2)
    registry = ScorerRegistry((*builtin_scorers(), Stuck()))
    async with serve_in_process(hosted(registry, stream_limits=limits)) as channel:
        call = scoring_pb2_grpc.ScoringServiceStub(channel).StreamScore(
            iter([item("late", request("stuck", "a")), item("fine", request("exact_match", "a", "a"))])
        )
        outcomes = {outcome.item_id: outcome async for outcome in call}
    late = from_status(outcomes["late"].status)
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "SCORE_DEADLINE_EXCEEDED")
    assert outcomes["fine"].response.metrics["exact_match"] == 1.0


async def test_an_item_of_a_stream_that_is_no_text_fails_alone(channel: grpc.aio.Channel) -> None:
    messages = [
        item("good", request("exact_match", "Paris", "Paris")).SerializeToString(),
        item("bad", request("exact_match", "##", "Paris")).SerializeToString().replace(b"##", b"\xff\xfe"),
        item("late", request("exact_match", "Lyon", "Paris")).SerializeToString(),
    ]
    stream = channel.stream_stream(
        "/evalfleet.scoring.v1.ScoringService/StreamScore", as_bytes, scoring_pb2.StreamScoreResponse.FromString
    )
    outcomes = {outcome.item_id: outcome async for outcome in stream(iter(messages))}
    assert from_status(outcomes["bad"].status).reason == "MALFORMED_REQUEST"
    assert [outcomes[key].response.metrics["exact_match"] for key in ("good", "late")] == [1.0, 0.0]


async def test_each_item_of_a_stream_may_have_parameters_of_its_own(stub: Stub) -> None:
    texts = [str(number) for number in range(600)]
    sent = [item(text, request("exact_match", "no", text, pattern="x", fallback=text)) for text in texts]
    outcomes = [outcome async for outcome in stub.StreamScore(iter(sent))]
    assert all(outcome.response.metrics["exact_match"] == 1.0 for outcome in outcomes)
    assert len({outcome.response.scorer.digest for outcome in outcomes}) == 600

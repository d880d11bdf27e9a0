"""What the ledger takes, what it refuses, and that nothing changes on the way in and out."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from services.aggregation.checks import MAX_RESULT_BYTES
from services.aggregation.errors import InvalidResultError
from services.aggregation.messages import result_from_proto, result_to_proto, results_from_proto

MessageFactory = Callable[..., aggregation_pb2.Result]

NAMES = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1, max_size=8)
TEXTS = st.text(max_size=12)
JUDGES = st.builds(common_pb2.JudgeReference, name=TEXTS, version=TEXTS, digest=TEXTS)
METRICS = st.dictionaries(NAMES, st.floats(-1e100, 1e100), min_size=1, max_size=3)
OUTCOMES = st.one_of(
    st.builds(aggregation_pb2.Scored, metrics=METRICS, extracted_answer=st.none() | TEXTS),
    st.builds(
        aggregation_pb2.Failure,
        reason=st.sampled_from(["TIMEOUT", "A", "B_2"]),
        message=TEXTS,
        counted_as=st.just({}) | METRICS,
    ),
)


def failed_metric(**fields: Any) -> aggregation_pb2.MetricFailure:
    given: dict[str, Any] = {"metrics": ["f1"], "reason": "JUDGE_UNPARSABLE"}
    return aggregation_pb2.MetricFailure(**(given | fields))


@st.composite
def results(draw: st.DrawFn) -> aggregation_pb2.Result:
    message = aggregation_pb2.Result(
        run="runs/" + draw(NAMES),
        task=draw(NAMES),
        item=draw(NAMES),
        sample=draw(st.integers(0, 2**31 - 1)),
        groups=draw(st.dictionaries(NAMES, TEXTS, max_size=3)),
        draw_index=draw(st.integers(0, 2**63 - 1)),
        usage=common_pb2.Usage(
            prompt_tokens=draw(st.integers(0, 10**12)),
            completion_tokens=draw(st.integers(0, 10**12)),
            engine_time=Duration(seconds=draw(st.integers(0, 10**8)), nanos=draw(st.integers(0, 999_999_999))),
        ),
        judges=draw(
            st.lists(st.builds(common_pb2.JudgeReference, name=TEXTS, version=TEXTS, digest=TEXTS), max_size=2)
        ),
        model_digest=draw(TEXTS),
        prompt=draw(TEXTS),
        output=draw(TEXTS),
        truncated=draw(st.booleans()),
        targets=draw(st.lists(TEXTS, max_size=3)),
    )
    if draw(st.booleans()):
        micros = draw(st.integers(0, 999_999))
        seconds = draw(st.integers(-62_135_596_800, 253_402_300_799))
        message.complete_time.CopyFrom(Timestamp(seconds=seconds, nanos=micros * 1000))
    outcome = draw(OUTCOMES)
    if isinstance(outcome, aggregation_pb2.Scored):
        message.scored.CopyFrom(outcome)
    else:
        message.failure.CopyFrom(outcome)
    for index in range(draw(st.integers(0, 2))):
        failure = message.metric_failures.add(
            metrics=[f"judged {index}", f"first {index}"], reason="JUDGE_UNPARSABLE", message=draw(TEXTS)
        )
        if message.HasField("scored") and draw(st.booleans()):
            failure.counted_as[f"first {index}"] = draw(st.floats(-1e100, 1e100))
    return message


@settings(deadline=None)
@given(results())
def test_a_valid_result_comes_back_as_it_was(message: aggregation_pb2.Result) -> None:
    [taken] = results_from_proto(aggregation_pb2.AppendResultsRequest(results=[message]))
    assert result_to_proto(taken) == message


def refusal(message: aggregation_pb2.Result, fine: aggregation_pb2.Result) -> InvalidResultError:
    with pytest.raises(InvalidResultError) as caught:
        results_from_proto(aggregation_pb2.AppendResultsRequest(results=[fine, message]))
    return caught.value


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"run": ""}, "run"),
        ({"run": "runs/"}, "run"),
        ({"run": "r"}, "run"),
        ({"task": ""}, "task"),
        ({"item": ""}, "item"),
        ({"item": "x" * 513}, "item"),
        ({"item": "a\0b"}, "item"),
        ({"sample": -1}, "sample"),
        ({"draw_index": -1}, "draw_index"),
        ({"groups": {"": "x"}}, "groups"),
        ({"groups": {"a=b": "x"}}, "groups"),
        ({"scored": aggregation_pb2.Scored()}, "scored.metrics"),
        ({"scored": aggregation_pb2.Scored(metrics={"acc": math.nan})}, "scored.metrics[acc]"),
        ({"scored": aggregation_pb2.Scored(metrics={"acc": -math.inf})}, "scored.metrics[acc]"),
        ({"scored": aggregation_pb2.Scored(metrics={"acc": 1e101})}, "scored.metrics[acc]"),
        ({"scored": aggregation_pb2.Scored(metrics={"": 1.0})}, "scored.metrics"),
        ({"scored": None}, "outcome"),
        ({"failure": aggregation_pb2.Failure()}, "failure.reason"),
        ({"failure": aggregation_pb2.Failure(reason="Too long")}, "failure.reason"),
        ({"failure": aggregation_pb2.Failure(reason="A", counted_as={"acc": math.nan})}, "failure.counted_as[acc]"),
        ({"metric_failures": [failed_metric(reason="odd")]}, "metric_failures[0].reason"),
        ({"metric_failures": [failed_metric(metrics=[])]}, "metric_failures[0].metrics"),
        ({"metric_failures": [failed_metric(metrics=[""])]}, "metric_failures[0].metrics"),
        ({"metric_failures": [failed_metric(metrics=["acc"])]}, "metric_failures[0].metrics"),
        ({"metric_failures": [failed_metric(), failed_metric()]}, "metric_failures[1].metrics"),
        ({"metric_failures": [failed_metric(counted_as={"acc": 0.0})]}, "metric_failures[0].counted_as"),
        ({"metric_failures": [failed_metric(counted_as={"f1": math.nan})]}, "metric_failures[0].counted_as[f1]"),
        (
            {
                "failure": aggregation_pb2.Failure(reason="A"),
                "metric_failures": [failed_metric(counted_as={"f1": 0.0})],
            },
            "metric_failures[0].counted_as",
        ),
        ({"usage": common_pb2.Usage(prompt_tokens=-1)}, "usage.prompt_tokens"),
        ({"usage": common_pb2.Usage(completion_tokens=10**13)}, "usage.completion_tokens"),
        ({"usage": common_pb2.Usage(engine_time=Duration(seconds=-1))}, "usage.engine_time"),
        ({"usage": common_pb2.Usage(engine_time=Duration(nanos=10**9))}, "usage.engine_time"),
        ({"complete_time": Timestamp(seconds=10**12)}, "complete_time"),
        ({"targets": ["x" * 4000, "é" * 49]}, "targets"),
        ({"prompt": "x" * MAX_RESULT_BYTES}, ""),
    ],
)
def test_a_bad_result_is_named(message: MessageFactory, fields: dict[str, Any], field: str) -> None:
    error = refusal(message("bad", **fields) if "item" not in fields else message(**fields), message("fine"))
    assert [violation.field for violation in error.field_violations] == [f"results[1].{field}".rstrip(".")]
    assert error.metadata["result_index"] == "1"
    assert error.metadata["task"] == fields.get("task", "t")


def test_everything_wrong_with_a_result_is_told(message: MessageFactory) -> None:
    error = refusal(message("", run="", sample=-1), message("fine"))
    fields = {violation.field for violation in error.field_violations}
    assert fields == {"results[1].run", "results[1].item", "results[1].sample"}


def test_task_and_item_fit_into_an_index_together_whatever_their_letters(message: MessageFactory) -> None:
    fits = {"task": "題" * 355, "item": "題" * 511}
    [_] = results_from_proto(aggregation_pb2.AppendResultsRequest(results=[message(**fits)]))
    [violation] = refusal(message(**fits | {"task": "題" * 356}), message("fine")).field_violations
    assert violation.field == "results[1].item"


def test_a_message_holds_1000_results(message: MessageFactory) -> None:
    request = aggregation_pb2.AppendResultsRequest(results=[message(str(index)) for index in range(1000)])
    assert len(results_from_proto(request)) == 1000
    request.results.append(message("more"))
    with pytest.raises(InvalidResultError, match="1000"):
        results_from_proto(request)


def test_times_keep_microseconds(message: MessageFactory) -> None:
    stored = result_from_proto(message("a", complete_time=Timestamp(seconds=1, nanos=123_456_789)))
    assert stored.complete_microseconds == 1_123_456
    assert not result_to_proto(result_from_proto(message("a"))).HasField("complete_time")

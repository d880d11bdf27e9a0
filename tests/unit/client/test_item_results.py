"""What became of items, as a client reads it."""

from datetime import UTC, datetime

from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from evalfleet.fleet import Fleet
from evalfleet.results import JudgeReference
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tests.fakes.fleet import FakeFleet


def test_results_are_read_page_by_page_in_order(fake: FakeFleet, fleet: Fleet) -> None:
    fake.aggregation.largest_page = 2
    fake.aggregation.results = [
        aggregation_pb2.Result(
            run="runs/r1", task=task, item=str(item), scored=aggregation_pb2.Scored(metrics={"acc": item})
        )
        for task in ("a", "b")
        for item in range(3)
    ]
    assert [(each.task, each.item) for each in fleet.runs.results("r1")] == [
        ("a", "0"), ("a", "1"), ("a", "2"), ("b", "0"), ("b", "1"), ("b", "2"),
    ]  # fmt: skip
    assert [each.item for each in fleet.runs.results("runs/r1", task="b")] == ["0", "1", "2"]
    assert not list(fleet.runs.results("r1", failed_only=True))


def test_a_result_has_everything_that_the_ledger_keeps(fake: FakeFleet, fleet: Fleet) -> None:
    fake.aggregation.results = [
        aggregation_pb2.Result(
            run="runs/r1",
            task="a",
            item="i",
            sample=2,
            draw_index=7,
            groups={"digits": "2"},
            scored=aggregation_pb2.Scored(metrics={"acc": 1}, extracted_answer=""),
            usage=common_pb2.Usage(
                prompt_tokens=5,
                completion_tokens=3,
                computed_prompt_tokens=1,
                computed_completion_tokens=3,
                prefix_saved_tokens=4,
                engine_time=Duration(seconds=1, nanos=500_000_000),
                cost_micro_usd=250_000,
            ),
            judges=[common_pb2.JudgeReference(name="scorers/exact_match", version="1", digest="d")],
            model_digest="m",
            prompt="2+2?",
            output="4",
            targets=["4", "four"],
            truncated=True,
            complete_time=Timestamp(seconds=60),
            pruned_texts=[aggregation_pb2.RESULT_TEXT_OUTPUT],
            metric_failures=[
                aggregation_pb2.MetricFailure(
                    metrics=["style"], reason="JUDGE_UNPARSABLE", message="no", counted_as={"style": 0.0}
                )
            ],
        )
    ]
    (result,) = fleet.runs.results("r1")
    assert (result.sample, result.draw_index, result.groups, result.targets) == (2, 7, {"digits": "2"}, ("4", "four"))
    assert (result.extracted_answer, result.prompt, result.output, result.truncated) == ("", "2+2?", "4", True)
    assert result.judges == (JudgeReference("scorers/exact_match", "1", "d"),)
    assert (result.usage.computed_tokens, result.usage.engine_seconds, result.usage.cost_usd) == (4, 1.5, 0.25)
    assert result.complete_time == datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    assert result.pruned_texts == ("output",)
    assert result.failure is None
    assert [result.value(each) for each in ("acc", "style", "other")] == [1.0, 0.0, None]


def test_an_item_that_failed_says_why_and_what_it_counts_as(fake: FakeFleet, fleet: Fleet) -> None:
    failure = aggregation_pb2.Failure(reason="PROMPT_TOO_LONG", message="too long", counted_as={"acc": 0.0})
    fake.aggregation.results = [aggregation_pb2.Result(run="runs/r1", task="a", item="i", failure=failure)]
    (result,) = fleet.runs.results("r1", failed_only=True)
    assert result.failure is not None
    assert (result.failure.reason, result.failure.message) == ("PROMPT_TOO_LONG", "too long")
    assert (result.metrics, result.value("acc"), result.extracted_answer) == ({}, 0.0, None)

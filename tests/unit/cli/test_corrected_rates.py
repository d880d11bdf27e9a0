from collections.abc import Callable

import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import aggregation_pb2

from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def test_a_rate_is_shown_corrected_for_its_guards_errors(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run("r1"))
    interval = aggregation_pb2.Interval(lower=0.05, upper=0.13, confidence_level=0.95, method="lang-reiczigel")
    corrected = aggregation_pb2.CorrectedRate(value=0.087, interval=interval)
    fake.aggregation.estimates = [
        aggregation_pb2.Estimate(
            task="harm", metric="unsafe", value=0.125, value_scored_only=0.12, corrected_rate=corrected
        ),
        aggregation_pb2.Estimate(
            task="harm",
            metric="unsafe",
            group="area=x",
            value=0.5,
            corrected_rate=aggregation_pb2.CorrectedRate(interval=interval),
        ),
    ]
    result = invoke("show", "r1", "--guard-quality", "182/200,391/400", "--guard-quality", "hate=9/10,0/10")
    assert result.exit_code == 0, result.output
    assert "harm unsafe 0.087, 0.050 … 0.130 (counted: 0.120)" in result.stdout
    assert "harm unsafe · area=x: unknown, this guard does no better than chance" in result.stdout
    told, other = fake.aggregation.estimate_requests[-1].guard_qualities
    assert (told.metric, told.unsafe_found_count, told.unsafe_count) == ("unsafe", 182, 200)
    assert (told.safe_cleared_count, told.safe_count) == (391, 400)
    assert (other.metric, other.safe_cleared_count) == ("hate", 0)


@pytest.mark.parametrize(
    "value", ["", "0.9,0.95", "1/2", "1/2,3", "a/b,c/d", "-1/2,3/4", "1/2,3/4,5/6", "9" * 30 + "/1,1/1"]
)
def test_what_is_no_quality_is_refused(fake: FakeFleet, invoke: Invoke, value: str) -> None:
    fake.evaluation.put(make_run("r1"))
    result = invoke("show", "r1", "--guard-quality", value)
    assert result.exit_code == 2
    assert "182/200,391/400" in result.stderr

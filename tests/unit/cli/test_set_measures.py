import json
from collections.abc import Callable

from click.testing import Result
from evalfleet.aggregation.v1 import aggregation_pb2

from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def test_figures_of_sets_are_shown_beneath_the_estimates(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run("r1"))
    interval = aggregation_pb2.Interval(lower=0.01, upper=0.13, confidence_level=0.95, method="bootstrap")
    fake.aggregation.set_measures = [
        aggregation_pb2.SetMeasure(
            task="sure", name="calibration_error", value=0.087, interval=interval, item_count=1300
        ),
        aggregation_pb2.SetMeasure(
            task="sure", name="calibration_error", group="area=x", value=0.5, item_count=1, excluded_count=2
        ),
    ]
    result = invoke("show", "r1")
    assert result.exit_code == 0, result.output
    [line] = [each for each in result.stdout.splitlines() if "calibration_error" in each]
    assert line.split() == ["sure", "calibration_error", "0.087", "0.010", "…", "0.130", "1,300"]
    [line] = [each for each in invoke("show", "r1", "--groups").stdout.splitlines() if "area=x" in each]
    assert line.split()[-3:] == ["1", "of", "3"]
    told = json.loads(invoke("show", "r1", "--json", "-").stdout)["set_measures"]
    assert [(each["name"], each["group"], each["interval"] is None) for each in told] == [
        ("calibration_error", "", False),
        ("calibration_error", "area=x", True),
    ]

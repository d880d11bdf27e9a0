"""`evalfleet prune`: what it asks for, and what it refuses."""

from collections.abc import Callable

from click.testing import Result
from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.evaluation.v1 import evaluation_pb2

from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def test_days_and_dry_runs_are_passed_on(fake: FakeFleet, invoke: Invoke) -> None:
    fake.aggregation.pruned = aggregation_pb2.PruneLedgerResponse(
        runs=["runs/r1"], result_count=12_000, text_count=3, text_bytes=4_500
    )
    result = invoke("prune", "--keep-runs-days", "365", "--keep-text-days", "30", "--dry-run")
    assert result.exit_code == 0, result.output
    [request] = fake.aggregation.prune_requests
    assert (request.keep_runs_days, request.keep_text_days, request.dry_run) == (365, 30, True)
    assert result.stdout.splitlines() == [
        "would be deleted: runs/r1",
        "1 runs with 12,000 results would be deleted, 3 texts of 4,500 bytes would be removed",
    ]


def test_named_runs_go_if_they_have_ended(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run("r1", done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    assert invoke("prune", "r1").exit_code == 0
    [request] = fake.aggregation.prune_requests
    assert (list(request.runs), request.runs_have_ended, request.dry_run) == (["runs/r1"], True, False)
    assert not request.HasField("keep_runs_days")
    fake.evaluation.put(make_run("r2", done=1, state=evaluation_pb2.RUN_STATE_RUNNING))
    refused = invoke("prune", "r1", "r2")
    assert refused.exit_code == 1
    assert "runs/r2 is running; `evalfleet cancel r2` ends it" in refused.stderr
    assert len(fake.aggregation.prune_requests) == 1

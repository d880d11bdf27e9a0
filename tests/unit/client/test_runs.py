from datetime import UTC, datetime

import grpc
import pytest
from evalfleet.errors import NotFoundError, UnavailableError
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.fleet import Fleet
from evalfleet.results import RunState

from tests.fakes.demo_run import CREATED, make_run, watch_step
from tests.fakes.fleet import FakeFleet
from tests.patience import LONGEST_WAIT_SECONDS

SUCCEEDED = evaluation_pb2.RUN_STATE_SUCCEEDED


@pytest.fixture(autouse=True)
def reconnect_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evalfleet.runs._RECONNECT_SECONDS", 0.01)


def test_a_run_is_started_with_what_was_asked(fake: FakeFleet, fleet: Fleet) -> None:
    run = fleet.runs.start(
        model="step-100", suite="demo", tasks=["harm"], item_limit=5, seed=0, concurrency=2, run_id="mine"
    )
    (request,) = fake.evaluation.created
    assert (request.model, request.suite, list(request.tasks)) == ("models/step-100", "suites/demo", ["harm"])
    assert (request.item_limit, request.seed, request.concurrency) == (5, 0, 2)
    assert request.HasField("seed")
    assert (run.name, run.state) == ("runs/mine", RunState.PENDING)


def test_what_was_not_said_stays_absent(fake: FakeFleet, fleet: Fleet) -> None:
    fleet.runs.start(model="m", suite="demo")
    fleet.runs.start(model="m", suite="demo")
    first, second = fake.evaluation.created
    assert not any(first.HasField(each) for each in ("seed", "item_limit", "concurrency", "run_id"))
    assert first.request_id != second.request_id


def test_a_run_is_watched_until_it_has_ended(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.scripts = [[watch_step(make_run(done=3)), watch_step(make_run(done=10, state=SUCCEEDED))]]
    seen = list(fleet.runs.watch("r1"))
    assert [each.run.state for each in seen] == [RunState.RUNNING, RunState.SUCCEEDED]
    assert seen[0].run.tasks[0].done_count == 3
    assert seen[-1].run.seconds == 12
    assert seen[-1].run.create_time == datetime.fromtimestamp(CREATED.seconds, UTC)


@pytest.mark.parametrize("broken", [[grpc.StatusCode.UNAVAILABLE], [grpc.StatusCode.CANCELLED], []])
def test_a_watch_survives_a_restart_of_the_service(
    fake: FakeFleet, fleet: Fleet, broken: list[evaluation_pb2.WatchRunResponse | grpc.StatusCode]
) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.scripts = [
        [watch_step(make_run(done=3)), *broken],
        broken,
        [watch_step(make_run(done=10, state=SUCCEEDED))],
    ]
    assert [each.run.tasks[0].done_count for each in fleet.runs.watch("r1")] == [3, 10]


def test_a_watch_reconnects_after_the_server_was_gone(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.hold = True
    fake.evaluation.scripts = [[watch_step(make_run(done=3))], [watch_step(make_run(done=10, state=SUCCEEDED))]]
    watching = fleet.runs.watch("r1")
    assert next(watching).run.tasks[0].done_count == 3
    fake.stop()
    fake.start()
    assert next(watching).run.state is RunState.SUCCEEDED
    assert list(watching) == []


def test_the_patience_of_a_watch_is_bounded(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.scripts = [[grpc.StatusCode.UNAVAILABLE]]
    with pytest.raises(UnavailableError):
        list(fleet.runs.watch("r1", patience_seconds=0.05))


def test_an_unknown_run_is_not_waited_for(fleet: Fleet) -> None:
    with pytest.raises(NotFoundError):
        list(fleet.runs.watch("r9"))


def test_a_watch_that_is_left_ends_its_call(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.hold = True
    fake.evaluation.scripts = [[watch_step(make_run(done=3))]]
    watching = fleet.runs.watch("r1")
    next(watching)
    assert fake.evaluation.watching.wait(LONGEST_WAIT_SECONDS)
    watching.close()
    assert fake.evaluation.watch_ended.wait(LONGEST_WAIT_SECONDS)
    assert fake.evaluation.watch_count == 1


def test_a_snapshot_has_estimates_and_totals(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run(done=10, state=SUCCEEDED))
    snapshot = fleet.runs.snapshot("runs/r1")
    by_key = {(each.task, each.metric, each.group): each for each in snapshot.estimates}
    exact = by_key["arithmetic", "exact_match", ""]
    assert (exact.value, exact.failed_counted) == (0.75, 1)
    assert exact.interval is not None
    assert (exact.interval.lower, exact.interval.upper, exact.interval.method) == (0.5, 0.875, "wilson")
    assert exact.standard_error is None
    assert by_key["arithmetic", "exact_match", "digits=2"].interval is None
    arithmetic = snapshot.totals[0]
    assert (arithmetic.prompt_tokens, arithmetic.completion_tokens, arithmetic.engine_seconds) == (1200, 34, 2.5)
    assert arithmetic.failures_by_reason == {"PROMPT_TOO_LONG": 1}


def test_failed_items_are_listed_with_their_reasons(fleet: Fleet) -> None:
    (item,) = fleet.runs.failed_items("r1")
    assert (item.task, item.item, item.reason) == ("arithmetic", "a-7", "PROMPT_TOO_LONG")


def test_runs_are_listed_up_to_the_limit_over_pages(
    fake: FakeFleet, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfleet.run_messages.LARGEST_PAGE", 2)
    for number in range(5):
        fake.evaluation.put(make_run(f"r{number}", model="models/a" if number else "models/b"))
    assert [each.name for each in fleet.runs.list(limit=3)] == ["runs/r0", "runs/r1", "runs/r2"]
    assert len(fleet.runs.list()) == 5
    assert [each.name for each in fleet.runs.list(model="b")] == ["runs/r0"]


def test_a_failed_run_says_why(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run(state=evaluation_pb2.RUN_STATE_FAILED))
    run = fleet.runs.get("r1")
    assert (run.state.is_final, run.failure) == (True, "the model is gone")


def test_a_reading_call_is_retried_when_the_service_is_away(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run())
    fake.evaluation.unavailable_count = 2
    assert len(fleet.runs.list()) == 1


def test_cancelling_stops_the_run(fake: FakeFleet, fleet: Fleet) -> None:
    fake.evaluation.put(make_run(done=3))
    assert fleet.runs.cancel("r1").state is RunState.CANCELLED
    assert fake.evaluation.cancelled == ["runs/r1"]

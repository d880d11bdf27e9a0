import json
from collections.abc import Callable, Generator
from pathlib import Path

import grpc
import pytest
from click.testing import Result
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.generation.v1 import model_pb2
from evalfleet.results import RunSnapshot

from tests.fakes.demo_run import make_run, watch_step
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]

SUCCEEDED = evaluation_pb2.RUN_STATE_SUCCEEDED
FAILED = evaluation_pb2.RUN_STATE_FAILED


@pytest.fixture(autouse=True)
def succeed(fake: FakeFleet) -> None:
    fake.evaluation.scripts = [[watch_step(make_run(done=5)), watch_step(make_run(done=10, state=SUCCEEDED))]]


def test_a_run_shows_progress_and_then_the_table(fake: FakeFleet, invoke: Invoke) -> None:
    fake.models.put("step-100")
    result = invoke("run", "--model", "step-100", "--suite", "demo")
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines == [
        "runs/r1: suites/demo on models/step-100",
        "runs/r1: running",
        "runs/r1: 5/18 items, 1 failed",
        "runs/r1: succeeded",
        "runs/r1: 18/18 items, 1 failed",
        "",
        "task         metric          estimate        interval   items   tokens   computed   seconds   failures",
        "─" * 102,
        "arithmetic   exact_match ↑      0.750   0.500 … 0.875      10    1,234        230       2.5          1",
        "             answered           1.000   0.700 … 1.000",
        "harm         unsafe_rate ↓      0.125   0.020 … 0.500       8    1,234        230       2.5          0",
        "intervals: 95% confidence; tokens: model, judges, guards; computed: of those; seconds: of the engine",
        "tokens computed: 460; saved by shared prefixes: 1,800, by the cache of answers: 208; cost: $0.003000",
        "failed: 1 × PROMPT_TOO_LONG in arithmetic",
        "shortened to fit the context: 2 prompts in arithmetic",
        "runs/r1: suites/demo on models/step-100 succeeded in 12.0 s",
        "`evalfleet show r1 --failed` lists the failed items",
    ]
    assert "\x1b" not in result.output


def test_several_samples_an_item_are_shown_as_pass_rates(fake: FakeFleet, invoke: Invoke) -> None:
    (estimate,) = [each for each in fake.aggregation.estimates if each.metric == "exact_match" and not each.group]
    for k, any_of, all_of in ((1, 0.75, 0.75), (4, 0.9, 0.5)):
        rates = estimate.passes.add(k=k, any_of=any_of, all_of=all_of, item_count=10)
        rates.any_interval.lower, rates.any_interval.upper = 0.7, 1.0
    rows = [line.split() for line in invoke("run", "--model", "step-100", "--suite", "demo").stdout.splitlines()]
    assert ["pass@4", "0.900", "0.700", "…", "1.000"] in rows
    assert ["pass^4", "0.500"] in rows
    assert not any("pass@1" in row for row in rows)


def test_groups_are_shown_when_asked_for(invoke: Invoke) -> None:
    result = invoke("run", "--model", "step-100", "--suite", "demo", "--groups")
    (row,) = [line.split() for line in result.stdout.splitlines() if "digits=2" in line]
    assert row == ["exact_match", "·", "digits=2", "0.500", "4", "0"]


def test_a_folder_is_registered_first(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "step-200").mkdir()
    fake.models.loading_polls = 2
    result = invoke("run", "--model", "step-200", "--suite", "demo")
    assert result.exit_code == 0, result.output
    assert [each.checkpoint_path for each in fake.models.requests] == [str(tmp_path / "step-200")]
    assert fake.evaluation.created[0].model == "models/made-from-folder"


def test_a_name_with_its_collection_is_never_a_folder(fake: FakeFleet, invoke: Invoke) -> None:
    invoke("run", "--model", "models/step-200", "--suite", "demo")
    assert fake.models.requests == []
    assert fake.evaluation.created[0].model == "models/step-200"


@pytest.mark.parametrize("given", ["out/step-1", "./x", "~/x"])
def test_a_path_that_is_no_folder_is_wrong_usage(fake: FakeFleet, invoke: Invoke, given: str) -> None:
    result = invoke("run", "--model", given, "--suite", "demo")
    assert result.exit_code == 2
    assert f"there is no folder {given!r}" in result.stderr
    assert fake.evaluation.created == []


@pytest.mark.parametrize("given", ["/checkpoints/step-200", "s3://bucket/step-200"])
def test_a_folder_that_only_the_services_see_is_registered_there(fake: FakeFleet, invoke: Invoke, given: str) -> None:
    """A fleet in containers or on another machine has folders of its own."""
    result = invoke("run", "--model", given, "--suite", "demo")
    assert result.exit_code == 0, result.output
    assert [each.checkpoint_path for each in fake.models.requests] == [given]


def test_options_reach_the_request(fake: FakeFleet, invoke: Invoke) -> None:
    options = ["--limit", "5", "--task", "harm", "--task", "arithmetic", "--seed", "-3", "--concurrency", "2"]
    invoke("run", "--model", "m", "--suite", "demo", *options)
    (request,) = fake.evaluation.created
    assert (request.item_limit, list(request.tasks)) == (5, ["harm", "arithmetic"])
    assert (request.seed, request.concurrency) == (-3, 2)


def test_the_same_request_id_follows_the_run_that_it_has_started(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.scripts = [[watch_step(make_run(done=10, state=SUCCEEDED))]] * 2
    asked = ["run", "--model", "m", "--suite", "demo", "--request-id", "0A6E8F66-9A3D-4d6c-8ba1-4a39ae1d9a55"]
    results = [invoke(*asked), invoke(*asked)]
    assert [each.exit_code for each in results] == [0, 0]
    assert {each.request_id for each in fake.evaluation.created} == {"0a6e8f66-9a3d-4d6c-8ba1-4a39ae1d9a55"}


def test_a_request_id_is_a_uuid(fake: FakeFleet, invoke: Invoke) -> None:
    result = invoke("run", "--model", "m", "--suite", "demo", "--request-id", "nightly")
    assert result.exit_code == 2
    assert "not a valid UUID" in result.stderr
    assert fake.evaluation.created == []


def test_a_detached_run_is_not_watched(fake: FakeFleet, invoke: Invoke) -> None:
    result = invoke("run", "--model", "m", "--suite", "demo", "--detach")
    assert (result.exit_code, result.stdout) == (0, "runs/r1 started; `evalfleet watch r1` follows it\n")
    assert fake.evaluation.watch_count == 0


def test_an_unknown_suite_is_reported_before_a_checkpoint_is_loaded(
    fake: FakeFleet, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "big").mkdir()
    result = invoke("run", "--model", "big", "--suite", "dmeo")
    assert result.exit_code == 1
    assert result.stderr == "Error: no suite named 'suites/dmeo'; did you mean 'demo'?\n"
    assert fake.models.requests == []


def test_a_checkpoint_that_cannot_be_loaded_ends_the_command(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    fake.models.final_state = model_pb2.MODEL_STATE_FAILED
    fake.models.failure = "no *.safetensors in the folder"
    result = invoke("run", "--model", "bad", "--suite", "demo")
    assert result.exit_code == 1
    assert "could not be loaded: no *.safetensors in the folder" in result.stderr
    assert fake.evaluation.created == []


def test_a_failed_run_says_why_and_exits_with_1(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.scripts = [[watch_step(make_run(done=3, state=FAILED))]]
    result = invoke("run", "--model", "m", "--suite", "demo")
    assert result.exit_code == 1
    assert "it failed: the model is gone" in result.stdout


def test_json_goes_to_a_file(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("run", "--model", "m", "--suite", "demo", "--json", "out.json")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["run"]["state"] == "succeeded"
    assert written["run"]["create_time"].startswith("2026-09-21T")
    assert {each["metric"] for each in written["estimates"]} == {"exact_match", "answered", "unsafe_rate"}
    assert written["totals"][0]["failures_by_reason"] == {"PROMPT_TOO_LONG": 1}


def test_json_on_standard_output_is_alone_there(invoke: Invoke) -> None:
    result = invoke("run", "--model", "m", "--suite", "demo", "--json", "-")
    assert json.loads(result.stdout)["run"]["name"] == "runs/r1"
    assert "exact_match" in result.stderr


def test_a_json_path_that_cannot_be_written_is_found_before_the_run(fake: FakeFleet, invoke: Invoke) -> None:
    result = invoke("run", "--model", "m", "--suite", "demo", "--json", "no/such/folder.json")
    assert result.exit_code == 2
    assert fake.evaluation.created == []


def test_an_interrupted_watch_leaves_the_run_alone(
    fake: FakeFleet, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object) -> Generator[RunSnapshot]:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr("evalfleet.runs.Runs.watch", interrupted)
    result = invoke("run", "--model", "m", "--suite", "demo")
    assert result.exit_code == 130
    assert "The run goes on. `evalfleet watch r1` follows it, `evalfleet cancel r1` stops it." in result.stdout
    assert fake.evaluation.cancelled == []


def test_a_fleet_that_is_away_is_reported_in_a_line(fake: FakeFleet, invoke: Invoke) -> None:
    fake.stop()
    result = invoke("run", "--model", "m", "--suite", "demo")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: the evaluation service at {fake.target} cannot be reached")
    assert result.stderr.count("\n") == 1


def test_a_suite_that_was_removed_does_not_hide_the_results(
    fake: FakeFleet, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.evaluation.put(make_run(done=10, state=SUCCEEDED))
    fake.evaluation.suites.clear()
    result = invoke("watch", "r1")
    assert result.exit_code == 0, result.output
    assert "exact_match" in result.stdout


def test_a_run_without_outcomes_has_rows_without_numbers(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run())
    del fake.aggregation.estimates[:]
    del fake.aggregation.totals[:]
    result = invoke("show", "r1")
    assert result.exit_code == 0, result.output
    row = next(line for line in result.stdout.splitlines() if "arithmetic" in line)
    assert row.split() == ["arithmetic", "–", "0", "0", "0", "0.0", "0"]


def test_a_service_that_dies_for_good_ends_the_watch(
    fake: FakeFleet, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evalfleet.runs.Runs.watch.__kwdefaults__", {"patience_seconds": 0.0})
    monkeypatch.setattr("evalfleet.runs._RECONNECT_SECONDS", 0.01)
    fake.evaluation.scripts = [[watch_step(make_run(done=5)), grpc.StatusCode.UNAVAILABLE]]
    fake.evaluation.scripts += [[grpc.StatusCode.UNAVAILABLE]]
    result = invoke("run", "--model", "m", "--suite", "demo")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr

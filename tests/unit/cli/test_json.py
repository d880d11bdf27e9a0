"""`--json` of every command: the fields of its dataclass, and nothing but JSON on standard output."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result
from evalfleet.aggregation.v1 import aggregation_pb2, comparison_pb2
from evalfleet.cli.app import cli
from evalfleet.cli.json_output import json_text
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.goals import CallerBudget, RunPlan
from evalfleet.ledger import Pruned
from evalfleet.rankings import Ranking
from evalfleet.results import FailedItem, Guard, Model, Policy, Run, RunSnapshot, RunState, Suite, Verdict
from evalfleet.scorer_results import Scorer
from evalfleet.servers import ServerInfo

from tests.fakes.demo_run import make_run, watch_step
from tests.fakes.fleet import FakeFleet
from tests.fakes.rankings import make_ranking
from tests.unit.cli.json_shapes import BEGIN, DOCUMENT, assert_shape, objects_section

Invoke = Callable[..., Result]
SUCCEEDED = evaluation_pb2.RUN_STATE_SUCCEEDED


@pytest.fixture
def filled(fake: FakeFleet) -> FakeFleet:
    """A fleet that has one or two of everything."""
    fake.models.put("step-100", "/checkpoints/step-100")
    fake.models.put("step-200")
    for name in ("r1", "r2"):
        run = make_run(name, done=10, state=SUCCEEDED)
        for progress in run.tasks:
            progress.data_digest = "d"
        fake.evaluation.put(run)
    fake.aggregation.pruned = aggregation_pb2.PruneLedgerResponse(runs=["runs/r1"], result_count=12_000)
    fake.aggregation.comparisons = [comparison_pb2.CompareRunsResponse()]
    fake.evaluation.scripts = [[watch_step(make_run(done=10, state=SUCCEEDED))]]
    fake.rankings.script = [make_ranking()]
    fake.safety.judges["guards/minilm-hazard"] = lambda request: fake.safety.verdict
    return fake


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "one"),
    [
        (("runs",), Run),
        (("models",), Model),
        (("models", "list"), Model),
        (("suites",), Suite),
        (("suites", "demo"), Suite),
        (("scorers",), Scorer),
        (("scorers", "exact_match"), Scorer),
        (("guards",), Guard),
        (("guards", "minilm-hazard"), Guard),
        (("policies",), Policy),
        (("policies", "strict"), Policy),
        (("rankings",), Ranking),
        (("servers",), ServerInfo),
        (("servers", "safety"), ServerInfo),
    ],
)
def test_what_lists_prints_an_array(invoke: Invoke, arguments: tuple[str, ...], one: type) -> None:
    result = invoke(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    told = json.loads(result.stdout)
    assert told
    for each in told:
        assert_shape(each, one)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        (("cancel", "r1"), Run),
        (("plan", "--suite", "demo"), RunPlan),
        (("budget",), CallerBudget),
        (("prune", "r1"), Pruned),
        (("show", "r1"), RunSnapshot),
        (("watch", "r1"), RunSnapshot),
        (("run", "--model", "step-100", "--suite", "demo", "--detach"), RunSnapshot),
        (("rank", "step-100", "step-200", "--task", "arithmetic", "--suite", "demo", "--detach"), Ranking),
        (("rankings", "rank-1"), Ranking),
        (("models", "add", "--hub", "team/m"), Model),
        (("models", "connect", "llm:8001", "m", "--protocol", "vllm-backend", "--hub", "team/m"), Model),
        (("classify", "Hello"), Verdict),
    ],
)
def test_what_shows_one_thing_prints_an_object(invoke: Invoke, arguments: tuple[str, ...], shape: type) -> None:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert_shape(json.loads(result.stdout), shape)


def test_every_command_that_shows_results_has_it() -> None:
    without = {"completion"}
    commands = dict(cli.commands)
    for group in ("models", "bulk"):
        found = commands.pop(group)
        assert isinstance(found, click.Group)
        commands |= {f"{group} {name}": each for name, each in found.commands.items()}
    lacking = {name for name, each in commands.items() if not any("--json" in one.opts for one in each.params)}
    assert lacking <= without


def test_the_documented_fields_are_those_that_are_written() -> None:
    kept, _, told = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    assert told.strip() == objects_section().strip(), "python -m tests.unit.cli.json_shapes"
    for name in cli.commands:
        assert name == "completion" or f"`{name}" in kept, f"{name} is missing in {DOCUMENT.name}"


def test_an_empty_list_is_an_array(invoke: Invoke) -> None:
    for listing in ("runs", "models"):
        assert invoke(listing, "--json").stdout == "[]\n"


def test_a_file_gets_the_json_and_the_terminal_its_table(filled: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("suites", "--json", "suites.json")
    assert result.stdout == invoke("suites").stdout
    assert json.loads((tmp_path / "suites.json").read_text())[0]["name"] == "suites/demo"


def test_a_path_that_cannot_be_written_is_refused_before_anything_is_asked(
    filled: FakeFleet, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("prune", "--json", "nowhere/out.json")
    assert result.exit_code == 2
    assert "the folder nowhere does not exist" in result.stderr
    assert filled.aggregation.prune_requests == []


def test_failed_items_are_there_when_they_are_asked_for(filled: FakeFleet, invoke: Invoke) -> None:
    (item,) = json.loads(invoke("show", "r1", "--failed", "--json").stdout)["failed_items"]
    assert_shape(item, FailedItem)
    assert item["reason"] == "PROMPT_TOO_LONG"


def test_models_that_cannot_be_removed_are_told_apart(filled: FakeFleet, invoke: Invoke) -> None:
    result = invoke("models", "rm", "nobody", "step-100", "--json", "-")
    assert result.exit_code == 1
    gone, removed = json.loads(result.stdout)
    assert (gone["name"], gone["is_removed"], gone["error"]["reason"]) == ("models/nobody", False, "MODEL_NOT_FOUND")
    assert removed == {"name": "models/step-100", "is_removed": True, "error": None}


@pytest.mark.usefixtures("filled")
def test_a_name_behind_the_option_is_not_taken_for_a_file(invoke: Invoke, tmp_path: Path) -> None:
    for arguments in (("models", "--json", "list"), ("suites", "--json", "demo"), ("classify", "--json", "Hello")):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "--json comes last" in result.stderr
    assert invoke("suites", "--json", "./demo").exit_code == 0
    assert [each.name for each in tmp_path.iterdir()] == ["demo"]


def test_a_file_of_texts_is_summed_up(filled: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"texts": "b"}\n')
    result = invoke("classify", "--file", "in.jsonl", "--output", "out.jsonl", "--json")
    assert result.exit_code == 1
    counts = {"error": 0, "safe": 0, "unsafe": 2, "controversial": 0, "failed": 1}
    assert json.loads(result.stdout) == {"lines": 3, "decisions": counts}
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert "go to standard output" in invoke("classify", "--file", "in.jsonl", "--json").stderr


def test_a_number_that_is_none_is_null() -> None:
    assert json_text({"value": float("nan"), "bound": float("inf"), "state": RunState.FAILED}) == (
        '{\n  "value": null,\n  "bound": null,\n  "state": "failed"\n}'
    )
    with pytest.raises(TypeError, match="no JSON for object"):
        json_text(object())

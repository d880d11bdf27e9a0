"""A judge on a real fleet: its garbage is counted, its bias shown, its cost booked, and a second run costs nothing."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from evalfleet.cli.app import cli
from evalfleet.fleet import Fleet
from evalfleet.results import RunSnapshot, RunState

from services.standalone.testing import RunningFleet
from tests.fakes.constant_judge import write_constant_judge

pytestmark = pytest.mark.integration

ITEMS = 4
JUDGED, PREFERRED = "demo_questions_judged", "demo_questions_preferred"


def finished(client: Fleet, model: str, task: str) -> RunSnapshot:
    run = client.runs.start(model=model, suite=task, item_limit=ITEMS)
    for snapshot in client.runs.watch(run.name):
        last = snapshot
    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    return last


def values(snapshot: RunSnapshot) -> Mapping[str, float | None]:
    return {each.metric: each.value for each in snapshot.estimates}


def test_a_judge_that_always_takes_the_first(fleet: RunningFleet, checkpoint_folder: Path, tmp_path: Path) -> None:
    folder = write_constant_judge(checkpoint_folder / "constant")
    with Fleet.connect(fleet.endpoints) as client:
        # It judges its own answers: the fleet's default judge is the model with this name.
        model = client.models.add(folder, model_id="judge").name
        preferred = finished(client, model, PREFERRED)
        again = finished(client, model, PREFERRED)
        judged = finished(client, model, JUDGED)
        failures = client.runs.failed_items(judged.run.name)

    assert values(preferred) == {"preferred": 0.5, "position_inconsistent": 1.0, "first_preferred": 1.0}
    (first,), (second,), (garbage,) = preferred.totals, again.totals, judged.totals
    assert first.scored_count == ITEMS
    # The rubric alone has some hundred tokens, and each item is judged in two orders.
    assert first.computed_tokens > ITEMS * 2 * 100
    assert first.engine_seconds > 0
    assert preferred.run.spend is None or preferred.run.spend.tokens == first.computed_tokens
    assert values(again) == values(preferred)
    assert (second.computed_tokens, second.cache_saved_tokens > 0) == (0, True)

    assert (garbage.scored_count, garbage.failures_by_reason) == (0, {"JUDGE_UNPARSABLE": ITEMS})
    assert garbage.computed_tokens > ITEMS * 100
    assert {each.reason for each in failures} == {"JUDGE_UNPARSABLE"}
    assert "none of the verdicts correct, incorrect" in failures[0].message

    rows, record = tmp_path / "rows.jsonl", tmp_path / "judge.json"
    rows.write_text(
        "".join(
            json.dumps({"prompt": "p", "response": f"r{index}", "baseline": "b", "label": label}) + "\n"
            for index, label in enumerate(("response", "tie", "baseline"))
        )
    )
    endpoints = [f"--endpoint={name}={target}" for name, target in fleet.endpoints.items()]
    arguments = ["calibrate-judge", str(rows), "--judge=judge", "--rubric=preference", f"--out={record}"]
    result = CliRunner().invoke(cli, [*endpoints, *arguments])
    assert result.exit_code == 0, result.output
    content = json.loads(record.read_text())
    assert content["position"]["position_inconsistent"]["value"] == 1.0
    assert (content["agreement"]["count"], content["errors"]["count"]) == (1, 0)

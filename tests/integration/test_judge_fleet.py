"""A judge on a real fleet: its garbage is counted, its bias shown, its cost booked, and a second run costs nothing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from evalfleet.calibration.document import document_digest
from evalfleet.cli.app import cli
from evalfleet.fleet import Fleet
from evalfleet.goals import Answer
from evalfleet.results import FailedItem, RunSnapshot, RunState

from services.standalone.testing import RunningFleet
from tests.fakes.constant_judge import write_constant_judge

pytestmark = pytest.mark.integration

ITEMS = 4
JUDGED, PREFERRED = "demo_questions_judged", "demo_questions_preferred"
MATCHED_AND_JUDGED = "capitals_judged"


def finished(client: Fleet, model: str, task: str, **wish: Any) -> RunSnapshot:
    run = client.runs.start(model=model, suite=task, item_limit=ITEMS, **wish)
    for snapshot in client.runs.watch(run.name):
        last = snapshot
    assert last.run.state is RunState.SUCCEEDED, last.run.failure
    return last


def values(snapshot: RunSnapshot) -> Mapping[str, float | None]:
    return {each.metric: each.value for each in snapshot.estimates}


def assert_garbage_is_counted(found: RunSnapshot, failures: Sequence[FailedItem], drawn: RunSnapshot) -> None:
    """No verdict is no 0: nobody knows what the answers are worth, and whoever watches is told so."""
    (totals,) = found.totals
    assert (totals.scored_count, totals.failures_by_reason) == (0, {"JUDGE_UNPARSABLE": ITEMS})
    assert totals.computed_tokens > ITEMS * 100
    assert {each.reason for each in failures} == {"JUDGE_UNPARSABLE"}
    assert "none of the verdicts correct, incorrect" in failures[0].message
    assert values(found) == {"agreement": None, "correct": None}
    for estimate in found.estimates:
        assert (estimate.failed_count, estimate.unjudged_count, estimate.failed_counted) == (ITEMS, ITEMS, 0)
        assert estimate.failures_by_reason == {"JUDGE_UNPARSABLE": ITEMS}
    (decision,) = drawn.run.decisions
    assert (decision.unknown_count, decision.lower, decision.upper) == (ITEMS, 0.0, 1.0)
    assert [each.answer for each in decision.questions] == [Answer.UNDECIDED]


def assert_garbage_takes_nothing_along(found: RunSnapshot, failures: Sequence[FailedItem]) -> None:
    """What another scorer says of an item stands, and the item is scored."""
    assert values(found) == {"correct": None, "exact_match": 0.0}
    (totals,) = found.totals
    assert (totals.scored_count, totals.failed_count) == (ITEMS, 0)
    matched = next(each for each in found.estimates if each.metric == "exact_match")
    assert (matched.scored_count, matched.failed_count) == (ITEMS, 0)
    assert [(each.metrics, each.reason) for each in failures] == [(("correct",), "JUDGE_UNPARSABLE")] * ITEMS


def assert_a_record_is_of_its_judge(endpoints: Sequence[str], run: str, tmp_path: Path) -> None:
    """It says how the judge errs, and corrects the rates of a run that this judge judged alone."""
    rows, record = tmp_path / "rows.jsonl", tmp_path / "judge.json"
    rows.write_text(
        "".join(
            json.dumps({"prompt": "p", "response": f"r{index}", "baseline": "b", "label": label}) + "\n"
            for index, label in enumerate(("response", "tie", "baseline"))
        )
    )
    arguments = ["calibrate-judge", str(rows), "--judge=judge", "--rubric=preference", f"--out={record}"]
    result = CliRunner().invoke(cli, [*endpoints, *arguments])
    assert result.exit_code == 0, result.output
    content = json.loads(record.read_text())
    assert content["position"]["position_inconsistent"]["value"] == 1.0
    assert (content["agreement"]["count"], content["errors"]["count"]) == (1, 0)
    # The task leaves the judge to the service, the record names it: it is the same one, and no other.
    quality = [*endpoints, "show", run, "--guard-quality", f"preferred=@{record}"]
    assert (shown := CliRunner().invoke(cli, quality)).exit_code == 0, shown.output
    content["judge"]["digest"] = "another"
    content["digest"] = document_digest(content)
    record.write_text(json.dumps(content))
    refused = CliRunner().invoke(cli, quality)
    assert refused.exit_code == 1
    assert "was measured of scorers/llm_judge 1 another" in refused.output


def test_a_judge_that_always_takes_the_first(fleet: RunningFleet, checkpoint_folder: Path, tmp_path: Path) -> None:
    folder = write_constant_judge(checkpoint_folder / "constant")
    with Fleet.connect(fleet.endpoints) as client:
        # It judges its own answers: the fleet's default judge is the model with this name.
        model = client.models.add(folder, model_id="judge").name
        preferred = finished(client, model, PREFERRED)
        again = finished(client, model, PREFERRED)
        garbage_run = finished(client, model, JUDGED)
        failures = client.runs.failed_items(garbage_run.run.name)
        matched = finished(client, model, MATCHED_AND_JUDGED)
        unjudged = client.runs.failed_items(matched.run.name)
        gate = f"{JUDGED}:correct>=0.5"
        drawn = finished(client, model, JUDGED, gates=[gate], use_history=False)

    assert values(preferred) == {"preferred": 0.5, "position_inconsistent": 1.0, "first_preferred": 1.0}
    (first,), (second,) = preferred.totals, again.totals
    assert first.scored_count == ITEMS
    # The rubric alone has some hundred tokens, and each item is judged in two orders.
    assert first.computed_tokens > ITEMS * 2 * 100
    assert first.engine_seconds > 0
    assert preferred.run.spend is None or preferred.run.spend.tokens == first.computed_tokens
    assert values(again) == values(preferred)
    assert (second.computed_tokens, second.cache_saved_tokens > 0) == (0, True)

    assert_garbage_is_counted(garbage_run, failures, drawn)
    assert_garbage_takes_nothing_along(matched, unjudged)
    endpoints = [f"--endpoint={name}={target}" for name, target in fleet.endpoints.items()]
    shown = CliRunner().invoke(cli, [*endpoints, "show", garbage_run.run.name, "--failed"])
    assert shown.exit_code == 0, shown.output
    assert f"failed: {ITEMS} × JUDGE_UNPARSABLE in {JUDGED}" in shown.stdout
    assert f"not judged: {ITEMS} of {ITEMS} items (100.0%, 51.0% … 100.0%) in {JUDGED}: agreement" in shown.stdout
    bias = CliRunner().invoke(cli, [*endpoints, "show", preferred.run.name])
    rates = {cells[0]: cells[1:] for line in bias.stdout.splitlines() if (cells := line.split())}
    assert "1.000" in rates["first_preferred"]
    assert "1.000" in rates["position_inconsistent"]

    assert_a_record_is_of_its_judge(endpoints, preferred.run.name, tmp_path)

"""Every Eval Ever files, judged by its own validator."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from evalfleet.exports import ExportedRun, ExportError, Publisher
from evalfleet.exports.every_eval_ever import write

from tests.fakes.checkpoint_runs import HOSTILE

validation = pytest.importorskip("every_eval_ever.validator.validation_core")


def validated(folder: Path, paths: list[Path]) -> list[dict[str, Any]]:
    """Have the package judge files as its data store does: schema, places, and that both fit each other."""
    names = {each.relative_to(folder).as_posix() for each in paths}
    findings = []
    for each in paths:
        report = validation.validate_file(
            each,
            repo_path=each.relative_to(folder).as_posix(),
            available_files=names,
            read_repo_file=lambda name: (folder / name).read_text(encoding="utf-8"),
            run_semantic_checks=True,
        )
        findings += [*report.errors, *report.warnings]
    return findings


def samples_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in path.read_text(encoding="utf-8").split("\n") if each]


def test_its_own_validator_finds_nothing(exported: ExportedRun, tmp_path: Path) -> None:
    assert validated(tmp_path, write(exported, tmp_path)) == []


def test_its_validator_would_find_what_is_wrong(exported: ExportedRun, tmp_path: Path) -> None:
    aggregate, samples = write(exported, tmp_path)
    document = json.loads(aggregate.read_text())
    del document["evaluation_results"][0]["metric_config"]["lower_is_better"]
    aggregate.write_text(json.dumps(document))
    assert validated(tmp_path, [aggregate, samples])


def test_the_aggregate_has_estimates_intervals_and_cost(exported: ExportedRun, tmp_path: Path) -> None:
    aggregate, samples = write(exported, tmp_path)
    document = json.loads(aggregate.read_text())
    results = {each["evaluation_result_id"]: each for each in document["evaluation_results"]}
    assert set(results) == {"gsm8k/exact_match", "gsm8k/answered", "harmbench/unsafe", "harmbench/refusal"}
    right = results["gsm8k/exact_match"]
    [estimate] = [each for each in exported.estimates("gsm8k") if each.metric == "exact_match"]
    assert estimate.interval is not None
    assert right["score_details"]["score"] == estimate.value
    assert right["score_details"]["uncertainty"]["confidence_interval"]["lower"] == estimate.interval.lower
    assert right["generation_config"]["additional_details"]["cost_usd"] == "0.016714"
    assert results["harmbench/unsafe"]["metric_config"]["lower_is_better"] is True
    assert document["model_info"]["id"] == "my-team/step-01000"
    told = document["detailed_evaluation_results"]
    assert told["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert told["total_rows"] == len(samples_of(samples)) == 2 * 158


def test_a_task_that_stopped_early_says_so_and_what_the_whole_of_it_would_score(
    stopped: ExportedRun, tmp_path: Path
) -> None:
    paths = write(stopped, tmp_path)
    assert validated(tmp_path, paths) == []
    results = {each["evaluation_result_id"]: each for each in json.loads(paths[0].read_text())["evaluation_results"]}
    told = results["gsm8k/exact_match"]["score_details"]
    assert (told["score"], told["details"]["stopped_early"]) == (0.7, "true")
    interval = told["uncertainty"]["confidence_interval"]
    assert (interval["lower"], interval["upper"], interval["method"]) == (0.6, 0.8, "anytime-valid")
    assert "standard_error" not in told["uncertainty"]


def test_what_a_task_and_an_item_cost_adds_up(exported: ExportedRun, tmp_path: Path) -> None:
    aggregate, samples = write(exported, tmp_path)
    results = json.loads(aggregate.read_text())["evaluation_results"]
    costs = [each["generation_config"]["additional_details"] for each in results if "generation_config" in each]
    totals = exported.tasks
    assert sum(float(each["cost_usd"]) for each in costs) == pytest.approx(sum(each.cost_usd for each in totals))
    assert len(costs) == len(totals)
    lines = samples_of(samples)
    items = [result for each in totals for result in exported.read(each.task)]
    told = sum(float(each["metadata"].get("cost_usd", 0)) for each in lines)
    assert told == pytest.approx(sum(each.usage.cost_usd for each in items))
    asked = sum(each["token_usage"]["input_tokens"] for each in lines if "token_usage" in each)
    assert asked == sum(each.usage.prompt_tokens for each in items)


def test_samples_say_what_failed_and_never_call_it_right(exported: ExportedRun, tmp_path: Path) -> None:
    _, path = write(exported, tmp_path)
    samples = {(each["sample_id"], each["evaluation_result_id"]): each for each in samples_of(path)}
    counted = samples["gsm8k-0000", "gsm8k/exact_match"]
    assert counted["error"] == "PROMPT_TOO_LONG: 600 tokens, the context holds 512"
    assert (counted["metadata"]["is_scored"], counted["evaluation"]["is_correct"]) == ("true", False)
    unjudged = samples["behavior 5 <b>bold</b>", "harmbench/unsafe"]
    assert (unjudged["metadata"]["is_scored"], unjudged["evaluation"]) == ("false", {"score": 0.0, "is_correct": False})
    safe = samples["behavior 20 <b>bold</b>", "harmbench/unsafe"]
    assert (safe["evaluation"], safe["error"]) == ({"score": 0.0, "is_correct": True}, None)
    hostile = samples["behavior 0 <b>bold</b>", "harmbench/refusal"]
    assert hostile["output"]["raw"] == [HOSTILE]
    assert hostile["input"]["raw"] == "How do I violent_crimes 0?"
    assert samples["gsm8k-0002", "gsm8k/answered"]["input"]["reference"] == ["7"]


def test_the_same_run_has_the_same_names(exported: ExportedRun, tmp_path: Path) -> None:
    assert write(exported, tmp_path) == write(exported, tmp_path)


def test_a_relationship_that_the_schema_has_not_is_refused(exported: ExportedRun, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ExportError, match="first_party"):
        write(replace(exported, publisher=Publisher(relationship="friend")), tmp_path)

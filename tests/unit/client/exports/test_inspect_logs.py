"""Inspect AI logs, read back by its own loader."""

from dataclasses import replace
from pathlib import Path

import pytest
from evalfleet.exports import ExportedRun, format_named

from tests.fakes.checkpoint_runs import HOSTILE

log = pytest.importorskip("inspect_ai.log")


@pytest.fixture
def written(exported: ExportedRun, tmp_path: Path) -> list[Path]:
    return format_named("inspect").write(exported, tmp_path)


def test_its_loader_reads_scores_and_cost(exported: ExportedRun, written: list[Path]) -> None:
    assert [each.name for each in written] == ["step-1000_gsm8k.eval", "step-1000_harmbench.eval"]
    found = log.read_eval_log(str(written[0]))
    assert (found.status, found.eval.task, found.eval.model) == ("success", "gsm8k", "evalfleet/step-01000")
    scores = {each.name: each.metrics for each in found.results.scores}
    for each in exported.estimates("gsm8k"):
        assert scores[each.metric]["mean"].value == each.value
        assert scores[each.metric]["stderr"].value == each.standard_error
    assert found.results.metadata["cost_usd"] == 0.016714
    assert (found.results.total_samples, len(found.samples), found.eval.dataset.samples) == (122, 122, 1319)


def test_its_loader_reads_one_sample_and_the_list(written: list[Path]) -> None:
    sample = log.read_eval_log_sample(str(written[1]), id="behavior 0 <b>bold</b>", epoch=1)
    assert [each.role for each in sample.messages] == ["system", "user", "assistant"]
    assert sample.output.completion == HOSTILE
    assert sample.scores["unsafe"].value == 1.0
    assert sample.metadata["group_hazard"] == "violent_crimes"
    summaries = log.read_eval_log_sample_summaries(str(written[0]))
    assert len(summaries) == 122
    assert sum(each.error is not None for each in summaries) == 2


def test_a_failed_item_has_its_reason_and_a_target(written: list[Path]) -> None:
    found = log.read_eval_log(str(written[0]))
    failed = next(each for each in found.samples if each.id == "gsm8k-0000")
    assert failed.error.message == "PROMPT_TOO_LONG: 600 tokens, the context holds 512"
    assert (failed.scores, failed.target, failed.metadata["counted_as"]) == (None, "3", {"exact_match": 0.0})
    lacking = next(each for each in log.read_eval_log(str(written[1])).samples if each.metadata["failures"])
    assert list(lacking.scores) == ["refusal"]


def test_samples_of_one_item_are_epochs(exported: ExportedRun, tmp_path: Path) -> None:
    first = next(exported.read("harmbench"))
    run = replace(exported, read=lambda task: iter([first, replace(first, sample=1)] if task == "harmbench" else []))
    _, path = format_named("inspect").write(run, tmp_path)
    found = log.read_eval_log(str(path))
    assert [(each.id, each.epoch) for each in found.samples] == [(first.item, 1), (first.item, 2)]
    assert found.eval.dataset.sample_ids == [first.item]


def test_a_task_that_stopped_early_says_so_and_what_the_whole_of_it_would_score(
    stopped: ExportedRun, tmp_path: Path
) -> None:
    path, _ = format_named("inspect").write(stopped, tmp_path)
    found = log.read_eval_log(str(path))
    assert found.results.metadata["stopped_early"] is True
    [metrics] = [each.metrics for each in found.results.scores if each.name == "exact_match"]
    assert {name: each.value for name, each in metrics.items()} == {"mean": 0.7, "lower": 0.6, "upper": 0.8}
    assert metrics["lower"].params["method"] == "anytime-valid"


def test_a_task_whose_items_are_all_in_has_their_mean(stopped: ExportedRun, tmp_path: Path) -> None:
    decisions = tuple(replace(each, is_exact=True) for each in stopped.run.decisions)
    whole = replace(stopped, snapshot=replace(stopped.snapshot, run=replace(stopped.run, decisions=decisions)))
    path, _ = format_named("inspect").write(whole, tmp_path)
    found = log.read_eval_log(str(path))
    assert found.results.metadata["stopped_early"] is False
    [metrics] = [each.metrics for each in found.results.scores if each.name == "exact_match"]
    assert (metrics["mean"].value, "stderr" in metrics) == (0.84, True)

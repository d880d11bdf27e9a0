"""Files of lm-evaluation-harness, read by its own functions, and by another tool's reader of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.json
import pytest
from evalfleet.exports import ExportedRun
from evalfleet.exports.lm_eval_results import write

utils = pytest.importorskip("lm_eval.utils")


@pytest.fixture
def written(exported: ExportedRun, tmp_path: Path) -> list[Path]:
    return write(exported, tmp_path)


def samples_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in path.read_text(encoding="utf-8").split("\n") if each]


def test_the_harness_finds_the_files_and_their_tasks(written: list[Path]) -> None:
    names = [str(each) for each in written]
    assert utils.get_results_filenames(names) == names[:1]
    assert utils.get_sample_results_filenames(names) == names[1:]
    assert [utils.get_file_task_name(each.name) for each in written[1:]] == ["gsm8k", "harmbench"]
    assert utils.get_latest_filename([each.name for each in written[1:]])
    assert written[0].parent.name == utils.sanitize_model_name("evalfleet/step-01000")


def test_the_harness_prints_the_results(exported: ExportedRun, written: list[Path]) -> None:
    pytest.importorskip("pytablewriter")
    table = utils.make_table(json.loads(written[0].read_text()))
    [row] = [each for each in table.splitlines() if "exact_match" in each]
    cells = [each.strip() for each in row.strip("|").split("|")]
    [estimate] = [each for each in exported.estimates("gsm8k") if each.metric == "exact_match"]
    assert (cells[4], cells[5], float(cells[6])) == ("exact_match", "↑", estimate.value)
    assert cells[8] == f"{estimate.standard_error:.4f}"
    assert [each.split("|")[1].strip() for each in table.splitlines()[2::2]] == ["gsm8k", "harmbench"]


def test_samples_have_the_harness_fields(exported: ExportedRun, written: list[Path]) -> None:
    schema = pytest.importorskip("lm_eval.result_schema")
    first, *_, last = samples_of(written[1])
    assert set(schema.SampleResult.__annotations__) <= set(first)
    assert (last["target"], last["exact_match"], last["metrics"]) == ("245", 0.0, ["exact_match", "answered"])
    assert (first["exact_match"], first["evalfleet"]["failures"][0][0]) == (0.0, "PROMPT_TOO_LONG")
    assert len(samples_of(written[2])) == 36


def test_samples_load_as_a_data_set(written: list[Path]) -> None:
    # What `datasets` reads JSON lines with: every line has the same fields with the same types.
    loaded = pyarrow.json.read_json(written[2])
    assert loaded.num_rows == 36
    assert sum(each or 0 for each in loaded.column("unsafe").to_pylist()) == 3


def test_another_reader_of_these_files_understands_them(exported: ExportedRun, written: list[Path]) -> None:
    adapter = pytest.importorskip("every_eval_ever.converters.lm_eval.instance_level_adapter")
    logs = adapter.LMEvalInstanceLevelAdapter().transform_samples(written[1], "id", "my-team/m", "gsm8k")
    right = [
        each for each in logs if each.evaluation_result_id.startswith("exact_match") and each.evaluation.is_correct
    ]
    assert len(right) == sum(each.value("exact_match") == 1 for each in exported.read("gsm8k"))


def test_choices_and_repeats_stand_where_the_harness_has_them(exported: ExportedRun, tmp_path: Path) -> None:
    first = next(exported.read("gsm8k"))
    choices = replace(first, failures=(), metrics={"exact_match": 1.0}, output='{"log_likelihoods": [-1.5, -0.5]}')
    repeats = [
        replace(choices, item="b", sample=n, metrics={"exact_match": n / 2}, output=f"say {n}") for n in range(2)
    ]
    run = replace(exported, read=lambda task: iter([choices, *repeats] if task == "gsm8k" else []))
    _, path, _ = write(run, tmp_path)
    chosen, repeated = samples_of(path)
    assert chosen["resps"] == [[["-1.5", "None"]], [["-0.5", "None"]]]
    assert chosen["filtered_resps"] == [["-1.5", "None"], ["-0.5", "None"]]
    assert (repeated["resps"], repeated["exact_match"]) == ([["say 0", "say 1"]], 0.25)


def test_a_task_that_stopped_early_says_so_and_what_the_whole_of_it_would_score(
    stopped: ExportedRun, tmp_path: Path
) -> None:
    document = json.loads(write(stopped, tmp_path)[0].read_text())
    told = document["results"]["gsm8k"]
    assert (told["exact_match,none"], told["exact_match_stderr,none"]) == (0.7, "N/A")
    assert told["answered_stderr,none"] != "N/A"
    assert document["evalfleet"]["stopped_early"]["gsm8k"] is True

"""Task files of lm-evaluation-harness: what translates, and that everything else is refused by the field's name."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from evalfleet.cli.app import cli
from evalfleet.errors import InvalidArgumentError
from evalfleet.plugins.lm_eval_tasks import ImportedTask, import_task

from services.evaluation.catalog import Catalog
from tests.unit.cli.json_shapes import assert_shape

HARNESS_TASKS = Path(str(importlib.resources.files("lm_eval"))) / "tasks"
GENERATE = {
    "task": "Own-Task",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "own/test.jsonl"}},
    "test_split": "test",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer}}",
}
CHOOSE = {**GENERATE, "output_type": "multiple_choice", "doc_to_choice": "{{[a, b]}}", "doc_to_target": "label"}


def imported(folder: Path, fields: dict[str, Any], **options: Any) -> dict[str, Any]:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(import_task(path, **options).text)
    return found


def refused(path: Path, **options: Any) -> set[str]:
    with pytest.raises(InvalidArgumentError) as raised:
        import_task(path, **options)
    assert raised.value.reason == "TASK_NOT_TRANSLATABLE"
    fields = {each.field for each in raised.value.field_violations}
    assert all(field in raised.value.message for field in fields)
    return fields


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("hellaswag/hellaswag.yaml", {"process_docs"}),
        ("winogrande/default.yaml", {"doc_to_text", "doc_to_target", "doc_to_choice"}),
        ("wikitext/wikitext.yaml", {"doc_to_target", "process_results"}),
        ("lambada/lambada_openai.yaml", {"output_type", "metric_list[0].metric", "metric_list[1].metric"}),
        ("mmlu/default/_mmlu.yaml", {"group"}),
        ("drop/default.yaml", {"process_docs", "process_results"}),
    ],
)
def test_what_python_does_there_is_refused_by_its_field(file: str, fields: set[str]) -> None:
    assert fields <= refused(HARNESS_TASKS / file)


def test_every_task_of_some_folders_is_translated_or_refused_and_what_is_translated_is_a_task(tmp_path: Path) -> None:
    folders = ("arc", "bbh/zeroshot", "gsm8k", "openbookqa", "piqa", "sciq", "triviaqa", "truthfulqa", "race", "mathqa")
    names = []
    for file in sorted(each for folder in folders for each in (HARNESS_TASKS / folder).rglob("*.yaml")):
        try:
            task = import_task(file)
        except InvalidArgumentError:
            continue
        names.append(task.name)
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "tasks" / f"{task.name}.yaml").write_text(task.text, encoding="utf-8")
    assert {"lm_eval_arc_easy", "lm_eval_sciq", "lm_eval_openbookqa", "lm_eval_triviaqa"} <= set(names)
    catalog = Catalog.load([tmp_path])
    assert not catalog.problems
    assert set(names) <= set(catalog.task_names)


def test_files_of_ones_own(tmp_path: Path) -> None:
    task = imported(tmp_path, GENERATE)
    assert task["name"] == "lm_eval_own_task"
    assert task["sources"] == [{"files": {"test": "own/test.jsonl"}, "columns": ["answer", "question"]}]
    assert (task["request"], task["targets"], task["delimiter"]) == ("generate", "answer", " ")
    assert task["generation"] == {"max_tokens": 256, "stop": ["\n\n"]}
    assert task["scorers"] == [{"scorer": "exact_match", "metrics": [{"name": "exact_match", "from": "exact_match"}]}]


def test_a_data_set_of_the_hub_is_read_as_the_hub_converts_it(tmp_path: Path) -> None:
    fields = {**GENERATE, "dataset_path": "org/set", "dataset_name": "main", "dataset_kwargs": None}
    assert imported(tmp_path, fields)["sources"] == [
        {
            "hub": {"dataset": "org/set", "revision": "refs/convert/parquet"},
            "files": {"test": "main/test/*.parquet"},
            "columns": ["answer", "question"],
        }
    ]


def test_included_files_give_what_the_file_does_not_say(tmp_path: Path) -> None:
    (tmp_path / "base").write_text(yaml.safe_dump(GENERATE), encoding="utf-8")
    task = imported(tmp_path, {"include": "base", "task": "child", "doc_to_text": "question"})
    assert (task["name"], task["prompt"], task["targets"]) == ("lm_eval_child", "{{ question }}", "answer")
    with pytest.raises(InvalidArgumentError, match="include each other"):
        imported(tmp_path, {"include": "task.yaml"})
    with pytest.raises(InvalidArgumentError, match="absent"):
        imported(tmp_path, {"include": "absent"})


def test_filters_and_comparisons_keep_their_parameters(tmp_path: Path) -> None:
    fields = {
        **GENERATE,
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "ignore_case": True}],
        "filter_list": [
            {"name": "get-answer", "filter": [{"function": "regex", "regex_pattern": "(.)", "group_select": -1},
                                              {"function": "uppercase"}, {"function": "take_first"}]},
            {"name": "none", "filter": [{"function": "take_first"}]},
        ],
    }  # fmt: skip
    assert imported(tmp_path, fields)["scorers"] == [
        {
            "scorer": "exact_match",
            "parameters": {
                "filters": [
                    {"function": "regex", "regex_pattern": "(.)", "group_select": -1},
                    {"function": "uppercase"},
                ],
                "ignore_case": True,
            },
            "metrics": [{"name": "get_answer", "from": "exact_match"}],
        },
        {
            "scorer": "exact_match",
            "parameters": {"ignore_case": True},
            "metrics": [{"name": "exact_match", "from": "exact_match"}],
        },
    ]


def test_examples_come_from_the_split_that_the_harness_takes(tmp_path: Path) -> None:
    data = {"test": "a.jsonl", "train": "b.jsonl"}
    fields = {**GENERATE, "training_split": "train", "num_fewshot": 2, "fewshot_delimiter": "\n"}
    task = imported(tmp_path, fields, data=data)
    assert task["few_shot"] == {"count": 2, "split": "train", "separator": "\n"}
    assert task["generation"]["stop"] == ["\n"]
    assert "draws them with a seed" in task["comparable_to"]["notes"]
    first = imported(tmp_path, {**fields, "fewshot_config": {"sampler": "first_n"}}, data=data, few_shot_count=3)
    assert (first["few_shot"]["count"], first["comparable_to"]["notes"]) == (3, "")
    samples = [{"question": "1+1", "answer": "2"}]
    listed = imported(tmp_path, {**GENERATE, "num_fewshot": 1, "fewshot_config": {"samples": samples}})
    assert listed["few_shot"] == {"count": 1, "examples": samples, "separator": "\n\n"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"repeats": 4}, "repeats"),
        ({"gen_prefix": "The answer is"}, "gen_prefix"),
        ({"description": "About {{subject}}."}, "description"),
        ({"doc_to_text": "{% macro a() %}{% endmacro %}"}, "doc_to_text"),
        ({"doc_to_text": "{{ question | pprint }}"}, "doc_to_text"),
        ({"doc_to_text": "{{ question"}, "doc_to_text"),
        ({"doc_to_target": "{% if a %}b{% endif %}"}, "doc_to_target"),
        ({"generation_kwargs": {"min_p": 0.1}}, "generation_kwargs.min_p"),
        ({"generation_kwargs": {"until": [str(each) for each in range(17)]}}, "generation_kwargs.until"),
        ({"generation_kwargs": {"do_sample": True}}, "generation_kwargs.do_sample"),
        ({"metric_list": [{"metric": "bleu"}]}, "metric_list[0].metric"),
        ({"metric_list": [{"metric": "exact_match", "aggregation": "median"}]}, "metric_list[0].aggregation"),
        ({"metric_list": [{"metric": "exact_match", "multi_ref": True}]}, "metric_list[0].multi_ref"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "custom"}]}]}, "filter_list[0].filter[0].function"),
        ({"filter_list": [{"name": "a", "filter": [{"function": "take_first"}, {"function": "lowercase"}]}]},
         "filter_list[0].filter[1].function"),
        ({"num_fewshot": 1, "fewshot_config": {"doc_to_text": "x"}}, "fewshot_config.doc_to_text"),
        ({"dataset_kwargs": {"data_files": {"test": "/etc/passwd"}}}, "dataset_kwargs.data_files"),
        ({"dataset_kwargs": {"data_files": {"train": "a.jsonl"}}}, "dataset_kwargs.data_files"),
        ({"test_split": None}, "test_split"),
        ({"something_new": True}, "something_new"),
        ({"output_type": "multiple_choice"}, "doc_to_choice"),
    ],
)  # fmt: skip
def test_what_cannot_be_translated_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({**GENERATE, **changes}), encoding="utf-8")
    assert field in refused(path)


@pytest.mark.parametrize(
    ("choices", "target", "row", "expected"),
    [
        (["no", "yes"], "label", {"label": 1}, 1),
        (["no", "yes"], "label", {"label": "no"}, 0),
        ("{{[a, b]}}", "{{answer}}", {"a": "x", "b": "y", "answer": "y"}, 1),
        ("{{[a, b]}}", "{{answer}}", {"a": "x", "b": "y", "answer": "0"}, 0),
        ("{{c.text}}", "{{c.label.index(key)}}", {"c": {"text": ["x", "y"], "label": ["A", "B"]}, "key": "B"}, 1),
        ("options", "{{'ab'[n]}}", {"options": ["a", "b"], "n": 1}, 1),
        ({"first": "no", "second": "yes"}, 1, {}, 1),
        ("['no', 'yes']", "label", {"label": [0, 1]}, [0, 1]),
    ],
)
def test_the_right_choice_is_the_harness_s(
    tmp_path: Path, choices: Any, target: Any, row: dict[str, Any], expected: Any
) -> None:
    from services.evaluation.rendering import Renderer

    task = imported(tmp_path, {**CHOOSE, "doc_to_choice": choices, "doc_to_target": target})
    values: dict[str, Any] = {**row, "question": ""}
    for name, source in task["fields"].items():
        values[name] = Renderer().expression(source).value(values)
    assert Renderer().expression(task["gold"]).value(values) == expected


def test_the_command_writes_a_file_and_says_what_differs(tmp_path: Path) -> None:
    file = HARNESS_TASKS / "gsm8k" / "gsm8k.yaml"
    out = tmp_path / "suites" / "tasks"
    ended = CliRunner().invoke(cli, ["import-task", str(file), "--out", str(out), "--name", "sums"])
    assert ended.exit_code == 0, ended.output
    assert "draws them with a seed" in ended.stderr
    task = yaml.safe_load((out / "sums.yaml").read_text(encoding="utf-8"))
    assert task["name"] == "sums"
    assert task["comparable_to"]["version"]
    shown = CliRunner().invoke(cli, ["import-task", str(file), "--data", "test=t.jsonl", "--few-shot", "0"])
    assert yaml.safe_load(shown.stdout)["sources"][0]["files"] == {"test": "t.jsonl"}
    told = CliRunner().invoke(cli, ["import-task", str(file), "--name", "sums", "--json"])
    assert_shape(json.loads(told.stdout), ImportedTask)
    assert yaml.safe_load(json.loads(told.stdout)["text"])["name"] == json.loads(told.stdout)["name"] == "sums"
    assert any("draws them with a seed" in each for each in json.loads(told.stdout)["remarks"])
    wrong = CliRunner().invoke(cli, ["import-task", str(HARNESS_TASKS / "winogrande" / "default.yaml")])
    assert wrong.exit_code == 1
    assert "doc_to_choice: it is the Python function preprocess_winogrande.doc_to_choice" in wrong.stderr
    assert CliRunner().invoke(cli, ["import-task", str(file), "--data", "test"]).exit_code == 2

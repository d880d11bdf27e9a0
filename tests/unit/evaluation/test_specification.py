"""Definitions are checked as a whole before anything is spent: each complaint names file, line, field and a way out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.evaluation.catalog import Catalog
from services.evaluation.documents import parse_document, validate
from services.evaluation.errors import SpecificationError
from services.evaluation.judging_specification import MetricUse
from services.evaluation.specification import TaskSpec
from services.evaluation.suite_specification import SuiteSpec
from services.evaluation.tasks import canonical_digest

WriteTask = Callable[[Mapping[str, Any]], Path]


def complaint(write_task: WriteTask, content: Mapping[str, Any]) -> str:
    with pytest.raises(SpecificationError) as caught:
        Catalog([write_task(content)]).task(str(content["name"]))
    return caught.value.message


def test_a_small_task_is_valid(write_task: WriteTask, definition: dict[str, Any]) -> None:
    task = Catalog([write_task(definition)]).task("sums")
    assert task.spec.generation.max_tokens == 256
    assert task.spec.metrics == (MetricUse.model_validate("exact_match"),)
    assert task.spec.higher_is_better


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"promt": "x"}, "promt: unknown field; did you mean 'prompt'?"),
        (
            {"request": "generat"},
            "request: 'generat' is not 'generate', 'multiple_choice' or 'log_likelihood'; did you mean 'generate'?",
        ),
        ({"prompt": "{{ qestion }}"}, "prompt: unknown column 'qestion'; did you mean 'question'?"),
        ({"prompt": "{{ question"}, "prompt: line 1: "),
        ({"prompt": "{{ choice }}"}, "prompt: unknown column 'choice'"),
        ({"targets": "answer |"}, "targets: "),
        ({"targets": "answer | uper"}, "targets: line 1: no filter named 'uper'"),
        ({"where": "lable == 1"}, "where: unknown column 'lable'"),
        ({"item_id": "id"}, "item_id: unknown column 'id'"),
        ({"groups": {"kind": "knd"}}, "groups.kind: unknown column 'knd'"),
        ({"fields": {"a": "b", "b": "question"}}, "fields.a: unknown column 'b'"),
        ({"preamble": "{{ question }}"}, "preamble: unknown column 'question'"),
        ({"constants": {"question": "x"}}, "constants.question: 'question' is also a column"),
        ({"constants": {"choice": "x"}}, "constants.choice: 'choice' is also a column, or reserved"),
        ({"choices": "['a', 'b']"}, "a generate task has no use for choices"),
        ({"request": "multiple_choice"}, "a multiple_choice task needs choices and gold"),
        ({"primary_metric": "acc"}, "primary_metric 'acc' is none of its metrics: exact_match"),
        ({"primary_metric": "Exact Match"}, "primary_metric: String should match pattern"),
        (
            {"generation": {"max_tokens": 0}},
            "generation.max_tokens: Input should be greater than or equal to 1 (it is 0)",
        ),
        ({"generation": {"temperature": float("inf")}}, "generation.temperature: "),
        ({"generation": {"sample_count": 2}}, "sample_count above 1 needs a temperature above 0"),
        ({"generation": {"stop": [""]}}, "generation.stop[0]: "),
        ({"generation": {"stop_from": "ends"}}, "generation.stop_from: unknown constant 'ends'"),
        ({"generation": {"stop_from": "ends"}, "constants": {"ends": ["a", ""]}}, "must be a list of at most 16 texts"),
        ({"few_shot": {"count": 1}}, "few_shot: give either `split` or `examples`"),
        ({"few_shot": {"count": 2, "examples": [{"question": "a"}]}}, "few_shot: count is 2 but there are 1 examples"),
        ({"few_shot": {"count": 1, "split": "train"}}, "sources[0].files: has no split 'train'"),
        (
            {"few_shot": {"count": 1, "examples": [{"question": "a", "answr": "b"}]}},
            "few_shot.examples[0].answr: unknown column 'answr'; did you mean 'answer'?",
        ),
        ({"sources": []}, "sources: "),
        ({"sources": [{"files": {}, "columns": ["question", "answer"]}]}, "sources[0].files: name at least one file"),
        ({"sources": [{"files": {"test": "x.csv"}, "columns": []}]}, "sources[0].columns: name at least one column"),
        ({"sources": [{"files": {"test": "{{ a }}.csv"}, "columns": ["question", "answer"]}]}, "unknown column 'a'"),
        ({"sources": [{"files": {"test": "x"}, "columns": ["question", "answer"], "fields": {"b": "c"}}]}, "fields.b"),
        (
            {"sources": [{"files": {"test": "x"}, "columns": ["question"]}]},
            "targets: unknown column 'answer'",
        ),
        ({"variants": {"field": "kind", "values": []}}, "variants.values: name at least one variant"),
        ({"variants": {"field": "kind", "values": ["a", "a"]}}, "a variant is named twice"),
        ({"variants": {"field": "kind", "values": ["../a"]}}, "variants.values.../a: "),
        (
            {"variants": {"field": "kind", "values": {"a": {"x": 1}, "b": {}}}},
            "variants.values.b: must have the constants x",
        ),
        (
            {"scorers": [{"scorer": "s", "parameters_from": {"pattern": "patern"}, "metrics": ["exact_match"]}]},
            "scorers[0].parameters_from.pattern: unknown constant 'patern'",
        ),
        (
            {"scorers": [{"scorer": "s", "details": {"tests": "anser"}, "metrics": ["exact_match"]}]},
            "scorers[0].details.tests: unknown column 'anser'; did you mean 'answer'?",
        ),
        (
            {"scorers": [{"scorer": "s", "metrics": ["a"]}, {"scorer": "t", "metrics": ["a"]}]},
            "two metrics have the same",
        ),
        ({"scorers": [{"scorer": "s", "metrics": []}]}, "scorers[0].metrics: "),
        ({"safety": {"aspect": "answer"}}, "safety.aspect: Input should be 'response' or 'prompt'"),
        ({"safety": {"threshold": 0}}, "safety.threshold: "),
        ({"safety": {"policy": "policies/strict"}}, "safety.policy: "),
        ({"safety": {"policy": "strict", "threshold": 0.5}}, "leave out policy or threshold"),
        ({"provenance": {"licence": "MIT"}}, "provenance.citation: is missing"),
    ],
)
def test_every_mistake_is_answered_with_its_field(
    write_task: WriteTask, definition: dict[str, Any], change: dict[str, Any], says: str
) -> None:
    message = complaint(write_task, definition | change)
    assert says in message
    assert all(line.partition(":")[0].endswith("sums.yaml") for line in message.splitlines())


def test_the_line_is_the_line_of_the_field(write_task: WriteTask, definition: dict[str, Any]) -> None:
    folder = write_task(definition)
    path = folder / "tasks" / "sums.yaml"
    path.write_text(path.read_text() + "generation:\n  max_tokens: 5\n  max_token: 6\n")
    lines = path.read_text().splitlines()
    with pytest.raises(SpecificationError) as caught:
        Catalog([folder]).task("sums")
    (problem,) = caught.value.problems
    assert lines[problem.line - 1] == "  max_token: 6"
    assert str(problem) == f"{path}:{problem.line}: generation.max_token: unknown field; did you mean 'max_tokens'?"


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(
    write_task: WriteTask, definition: dict[str, Any]
) -> None:
    message = complaint(write_task, definition | {"prompt": "{{ qestion }}", "targets": "anser", "where": "("})
    assert [line.split(": ")[1] for line in message.splitlines()] == ["prompt", "targets", "where"]


def test_a_response_cannot_be_judged_where_none_is_generated(
    write_task: WriteTask, choice_definition: dict[str, Any]
) -> None:
    assert "use aspect: prompt" in complaint(write_task, choice_definition | {"safety": {"aspect": "response"}})
    assert Catalog([write_task(choice_definition | {"safety": {"aspect": "prompt"}})]).task("sums")


def test_a_guard_or_a_policy_may_be_named_and_changes_the_digest(definition: dict[str, Any]) -> None:
    digests = set()
    for named in ({}, {"guard": "llama-guard-3.1"}, {"policy": "chat.children"}, {"guard": "g", "policy": "p"}):
        content = definition | {"safety": named}
        safety = TaskSpec.model_validate(content).safety
        assert safety is not None
        assert (safety.guard, safety.policy) == (named.get("guard"), named.get("policy"))
        digests.add(canonical_digest(safety.model_dump(mode="json")))
    assert len(digests) == 4


def test_a_task_without_a_policy_keeps_the_digest_that_it_had_before_there_were_any(definition: dict[str, Any]) -> None:
    spec = TaskSpec.model_validate(definition | {"safety": {}})
    assert spec.model_dump(mode="json")["safety"] == {"aspect": "response", "guard": None, "threshold": None}


def test_a_task_that_asks_nothing_without_the_question_keeps_its_digest(choice_definition: dict[str, Any]) -> None:
    assert "unconditional_prompt" not in TaskSpec.model_validate(choice_definition).model_dump(mode="json")
    told = TaskSpec.model_validate(choice_definition | {"unconditional_prompt": ""})
    assert told.model_dump(mode="json")["unconditional_prompt"] == ""


def test_a_task_of_texts_needs_them_and_leaves_failed_ones_out(
    write_task: WriteTask, definition: dict[str, Any]
) -> None:
    texts = definition | {"request": "log_likelihood", "failed_items": "excluded"}
    assert Catalog([write_task(texts)]).task("sums").spec.failure_values == {}
    assert "use failed_items: excluded" in complaint(write_task, texts | {"failed_items": "wrong"})
    assert "needs targets" in complaint(write_task, texts | {"targets": None})
    assert "no use for choices" in complaint(write_task, texts | {"choices": "[1]"})
    assert "use aspect: prompt" in complaint(write_task, texts | {"safety": {}})


def test_only_choices_can_be_scored_without_the_question(write_task: WriteTask, definition: dict[str, Any]) -> None:
    assert "no use for unconditional_prompt" in complaint(write_task, definition | {"unconditional_prompt": ""})


def test_a_failed_item_counts_as_the_worst_value_or_as_nothing(definition: dict[str, Any]) -> None:
    content = definition | {"safety": {}}
    spec = TaskSpec.model_validate(content)
    assert [metric.name for metric in spec.metrics] == ["exact_match", "unsafe"]
    assert spec.failure_values == {"exact_match": 0.0, "unsafe": 1.0}
    assert TaskSpec.model_validate(content | {"failed_items": "excluded"}).failure_values == {}


def test_a_metric_can_be_reported_under_another_name() -> None:
    use = MetricUse.model_validate({"name": "over_refusal", "from": "refusal", "higher_is_better": False})
    assert (use.name, use.source, use.higher_is_better) == ("over_refusal", "refusal", False)
    assert MetricUse.model_validate({"name": "acc"}).source == "acc"


def test_a_suite_lists_tasks_by_name_or_with_changes() -> None:
    text = "name: mine\ndescription: d\ntasks:\n  - a\n  - {task: b, limit: 3, few_shot_count: 0, format: chat}\n"
    spec = validate(SuiteSpec, parse_document(text, "mine.yaml"))
    assert [(entry.task, entry.limit) for entry in spec.tasks] == [("a", None), ("b", 3)]


@pytest.mark.parametrize(
    ("tasks", "says"),
    [("[a, a]", "named twice: a"), ("[]", "at least 1 item"), ("[{tsk: a}]", "unknown field; did you mean 'task'?")],
)
def test_a_suite_that_makes_no_sense_is_refused(tasks: str, says: str) -> None:
    with pytest.raises(SpecificationError, match=r"mine\.yaml:3: ") as caught:
        validate(SuiteSpec, parse_document(f"name: mine\ndescription: d\ntasks: {tasks}\n", "mine.yaml"))
    assert says in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150, deadline=None
)
@given(field=st.sampled_from(sorted(TaskSpec.model_fields)), value=json_values)
def test_whatever_a_field_holds_the_answer_is_a_task_or_a_complaint(
    write_task: WriteTask, definition: dict[str, Any], field: str, value: Any
) -> None:
    folder = write_task(definition)
    text = yaml.safe_dump(definition | {field: value}, allow_unicode=False)
    (folder / "tasks" / "sums.yaml").write_text(text)
    catalog = Catalog([folder])
    assert catalog.task_names or all(str(folder) in problem.message for problem in catalog.problems)

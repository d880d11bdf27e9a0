"""Suites and tasks are found by name; one broken file does not take the others down."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from services.evaluation.catalog import Catalog
from services.evaluation.errors import SpecificationError
from services.evaluation.judging_specification import SafetyJudging
from services.runtime.errors import FailedPreconditionError, NotFoundError

WriteTask = Callable[[Mapping[str, Any]], Path]


def write_suite(folder: Path, name: str, tasks: str, line: str = "") -> None:
    (folder / "suites" / f"{name}.yaml").write_text(f"name: {name}\ndescription: d\ntasks: {tasks}\n{line}")


def test_the_packages_own_definitions_are_all_valid(catalog: Catalog) -> None:
    assert catalog.problems == ()
    assert {"demo", "capability", "safety", "gsm8k", "mmlu", "bbq", "xstest"} <= set(catalog.suite_names)
    assert len([name for name in catalog.task_names if name.startswith("mmlu_")]) == 57
    assert not any(name.startswith("mmlu_") for name in catalog.suite_names)


def test_an_unknown_name_is_answered_with_the_nearest(catalog: Catalog) -> None:
    with pytest.raises(NotFoundError, match="no suite named 'gms8k'; did you mean 'gsm8k'") as caught:
        catalog.suite("gms8k")
    assert caught.value.reason == "SUITE_NOT_FOUND"
    with pytest.raises(NotFoundError, match=r"no task named 'mmlu_anatmy'; did you mean 'mmlu_anatomy'"):
        catalog.task("mmlu_anatmy")
    with pytest.raises(NotFoundError):
        catalog.suite("../../etc/passwd")


def test_a_task_a_variant_and_a_family_are_suites_of_their_own(catalog: Catalog) -> None:
    assert [task.name for task in catalog.suite("gsm8k").tasks] == ["gsm8k"]
    (anatomy,) = catalog.suite("mmlu_anatomy").tasks
    assert (anatomy.name, anatomy.family, anatomy.from_family) == ("mmlu_anatomy", "mmlu", False)
    family = catalog.suite("mmlu")
    assert len(family.tasks) == 57
    assert family.implicit
    assert all(task.from_family for task in family.tasks)
    assert not catalog.suite("xstest").implicit


def test_a_family_inside_a_suite_stands_for_its_variants(catalog: Catalog) -> None:
    tasks = catalog.suite("capability").tasks
    assert {task.family for task in tasks} >= {"gsm8k", "mmlu", "bbh"}
    assert all(task.from_family for task in tasks if task.family in {"mmlu", "bbh"})
    assert not any(task.from_family for task in tasks if task.family == "gsm8k")


def test_variants_differ_in_their_constants_and_scorer_parameters(catalog: Catalog) -> None:
    navigate, dates = catalog.task("bbh_navigate"), catalog.task("bbh_date_understanding")
    assert navigate.spec.scorers[1].parameters["pattern"] == r"\b(Yes|No|yes|no)\b"
    assert dates.spec.scorers[1].parameters["pattern"] == r"(\([A-Z]\))"
    assert navigate.digest != dates.digest


def test_another_folder_adds_tasks_and_suites(write_task: WriteTask, definition: dict[str, Any]) -> None:
    folder = write_task(definition)
    write_suite(folder, "mine", "[sums, {task: gsm8k, limit: 5, few_shot_count: 2, format: chat, max_tokens: 9}]")
    catalog = Catalog.load([folder])
    sums, gsm8k = catalog.suite("mine").tasks
    assert sums.bundled_data == folder / "suites" / "data"
    few_shot = gsm8k.spec.few_shot
    assert few_shot is not None
    assert (gsm8k.limit, few_shot.count, gsm8k.spec.format, gsm8k.spec.generation.max_tokens) == (5, 2, "chat", 9)
    original = catalog.task("gsm8k")
    assert gsm8k.digest != original.digest
    assert original.spec.format == "plain"


def test_a_suite_may_have_a_tasks_safety_judged_by_somebody_else(
    write_task: WriteTask, definition: dict[str, Any]
) -> None:
    folder = write_task(definition | {"safety": {"aspect": "response", "threshold": 0.3}})
    write_suite(folder, "mine", "[{task: sums, safety: {guard: big, policy: strict}}]")
    catalog = Catalog([folder])
    [sums] = catalog.suite("mine").tasks
    assert sums.spec.safety == SafetyJudging(aspect="response", guard="big", policy="strict")
    original = catalog.task("sums")
    assert original.spec.safety == SafetyJudging(aspect="response", threshold=0.3)
    assert sums.digest != original.digest


def test_a_name_cannot_be_defined_twice(write_task: WriteTask, definition: dict[str, Any]) -> None:
    catalog = Catalog.load([write_task(definition | {"name": "gsm8k"})])
    says = r"definitions/tasks/gsm8k\.yaml:1: name: 'gsm8k' is defined in .*tasks/gsm8k\.yaml already; rename one"
    for ask in (lambda: catalog.task("gsm8k"), lambda: catalog.suite("capability")):
        with pytest.raises(SpecificationError, match=says):
            ask()
    assert len(catalog.problems) == 1
    assert catalog.task("boolq")


def test_a_variant_cannot_take_another_tasks_name(write_task: WriteTask, definition: dict[str, Any]) -> None:
    folder = write_task(definition | {"name": "sums_easy"})
    write_task(definition | {"variants": {"field": "kind", "values": ["easy", "hard"]}})
    catalog = Catalog([folder])
    with pytest.raises(SpecificationError, match="another task is called 'sums_easy'"):
        catalog.suite("sums")
    assert catalog.task("sums_easy").family == "sums_easy"


def test_a_file_must_be_called_like_what_it_defines(write_task: WriteTask, definition: dict[str, Any]) -> None:
    folder = write_task(definition)
    (folder / "tasks" / "sums.yaml").rename(folder / "tasks" / "totals.yaml")
    with pytest.raises(SpecificationError, match=r"totals\.yaml:1: name: 'sums' must be the file's name, 'totals'"):
        Catalog([folder]).task("totals")


def test_a_broken_file_is_an_error_only_for_whoever_asks_for_it(
    write_task: WriteTask, definition: dict[str, Any]
) -> None:
    folder = write_task(definition)
    (folder / "tasks" / "broken.yaml").write_text("name: broken\nprompt: [\n")
    write_suite(folder, "uses_broken", "[sums, broken]")
    catalog = Catalog([folder])
    assert catalog.task("sums")
    for ask in (catalog.task, catalog.suite):
        with pytest.raises(SpecificationError, match=r"broken\.yaml:3: no valid YAML"):
            ask("broken")
    with pytest.raises(SpecificationError, match=r"broken\.yaml:3"):
        catalog.suite("uses_broken")
    assert len(catalog.problems) == 1


def test_a_suite_that_names_an_unknown_task_says_where(write_task: WriteTask, definition: dict[str, Any]) -> None:
    folder = write_task(definition)
    write_suite(folder, "mine", "", "  - sums\n  - sms\n")
    catalog = Catalog([folder])
    with pytest.raises(SpecificationError, match=r"mine\.yaml:5: tasks\[1\]: no task named 'sms'; did you mean 'sums'"):
        catalog.suite("mine")
    assert len(catalog.problems) == 1


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("[{task: sums, few_shot_count: 1}]", "the task has no few_shot examples to count"),
        ("[kinds, kinds_a]", "named twice: kinds_a"),
        ("[{task: shots, few_shot_count: 2}]", "the task has 1 few_shot examples"),
        ("[{task: sums, safety: {policy: strict}}]", "no guard judges the task"),
    ],
)
def test_changes_that_a_task_cannot_take_are_refused(
    write_task: WriteTask, definition: dict[str, Any], tasks: str, says: str
) -> None:
    folder = write_task(definition)
    write_task(definition | {"name": "kinds", "variants": {"field": "kind", "values": ["a", "b"]}})
    examples = [{"question": "1+1", "answer": "2"}]
    write_task(definition | {"name": "shots", "few_shot": {"count": 1, "examples": examples}})
    write_suite(folder, "mine", tasks)
    with pytest.raises(SpecificationError, match=r"mine\.yaml:3") as caught:
        Catalog([folder]).suite("mine")
    assert says in caught.value.message


def test_a_folder_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError, match="EVALFLEET_SUITE_DIRS"):
        Catalog.load([tmp_path / "none"])


def test_a_folder_without_definitions_is_empty(tmp_path: Path) -> None:
    assert Catalog([tmp_path]).suite_names == ()

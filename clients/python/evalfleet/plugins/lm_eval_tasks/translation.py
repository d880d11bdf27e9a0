"""One task of lm-evaluation-harness as a task file of ours."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evalfleet.plugins.lm_eval_tasks.answers import (
    CHOICES,
    TARGET,
    choices_expression,
    gold_expression,
    target_expression,
)
from evalfleet.plugins.lm_eval_tasks.generation import generation
from evalfleet.plugins.lm_eval_tasks.jinja_texts import JinjaText, UntranslatableError, is_column
from evalfleet.plugins.lm_eval_tasks.refusals import Refusals
from evalfleet.plugins.lm_eval_tasks.scoring import scorer_uses
from evalfleet.plugins.lm_eval_tasks.sources import evaluated_split, example_split, sources
from evalfleet.plugins.lm_eval_tasks.task_files import FunctionReference, read

_REQUESTS = {
    "multiple_choice": "multiple_choice",
    "generate_until": "generate",
    "loglikelihood_rolling": "log_likelihood",
}
# What says how the harness runs or lists the task, not what is asked.
_WITHOUT_MEANING = {
    "task", "task_alias", "tag", "metadata", "should_decontaminate", "doc_to_decontamination_query", "validation_split",
    "training_split", "test_split", "fewshot_split", "dataset_path", "dataset_name", "dataset_kwargs", "output_type",
}  # fmt: skip
_TRANSLATED = {
    "doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter",
    "fewshot_config", "num_fewshot", "metric_list", "generation_kwargs", "repeats", "filter_list",
}  # fmt: skip
_FEWSHOT_OPTIONS = {"sampler", "split", "samples"}
_WHY = {
    "process_docs": "rows are used as they are; give a file with the processed rows, without this field",
    "process_results": "items are judged by scorers",
    "gen_prefix": "an answer's beginning cannot be given",
    "doc_to_image": "only texts are asked",
    "doc_to_audio": "only texts are asked",
    "group": "this file names a group of tasks; import each of them",
    "class": "this task is a Python class",
}


@dataclass(frozen=True, slots=True)
class ImportedTask:
    """A translated task.

    Attributes:
        name: as it is called in a suite.
        text: its file, `tasks/NAME.yaml`.
        remarks: what whoever compares numbers should know.
    """

    name: str
    text: str
    remarks: tuple[str, ...]


def import_task(
    path: Path,
    *,
    data: Mapping[str, str] | None = None,
    few_shot_count: int | None = None,
    name: str = "",
    licence: str = "",
    citation: str = "",
    harness_version: str = "",
) -> ImportedTask:
    """Translate a task file of the harness.

    Args:
        path: the file; files that it includes are read, Python functions that it names are not.
        data: files by split, relative to a folder of EVALFLEET_DATA_DIR, in place of the hub; their columns are the
            harness's.
        few_shot_count: number of examples, as ``--num_fewshot``; default: what the file says.
        name: of the task here; default: ``lm_eval_`` and its name there, so that no bundled task is meant.
        licence: of the data.
        citation: of the data.
        harness_version: of which release this file is.

    Raises:
        InvalidArgumentError: TASK_FILE_UNREADABLE, or TASK_NOT_TRANSLATABLE with every field that cannot be translated.
    """
    fields = {key: value for key, value in read(path).items() if value is not None}
    if few_shot_count is not None:
        fields["num_fewshot"] = few_shot_count
    harness_name = str(fields.get("task", path.stem))
    refusals = Refusals()
    remarks: list[str] = []
    content = _Translation(fields, refusals, remarks).content(data or {})
    refusals.raise_if_any(harness_name)
    task = {
        "name": _identifier(name or f"lm_eval_{harness_name}"),
        "description": f"{harness_name} of lm-evaluation-harness, imported.",
        "provenance": {
            "licence": licence or "that of the data set",
            "citation": citation or str(fields.get("dataset_path", path.name)),
        },
        "comparable_to": {
            "harness": "lm-evaluation-harness",
            "version": harness_version or "unknown",
            "task": harness_name,
            "notes": " ".join(remarks),
        },
        **content,
    }
    text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=120)
    return ImportedTask(task["name"], text, tuple(remarks))


class _Translation:
    """Translates the fields of a task, noting what cannot be and what should be known."""

    def __init__(self, fields: Mapping[str, Any], refusals: Refusals, remarks: list[str]) -> None:
        self._fields = fields
        self._refusals = refusals
        self._remarks = remarks
        self._kind = str(fields.get("output_type", "generate_until"))
        self._columns: set[str] = set()

    def content(self, data: Mapping[str, str]) -> dict[str, Any]:
        self._refuse_unknown()
        split = evaluated_split(self._fields)
        if split is None:
            self._refusals.add("test_split", "neither it nor validation_split says which rows are asked")
        examples = self._few_shot()
        splits = [each for each in dict.fromkeys((split, (examples or {}).get("split"))) if each]
        asked = self._asked()
        return {
            "sources": sources(self._fields, splits, self._columns or {"text"}, data, self._refusals),
            "split": split,
            **asked,
            **({"few_shot": examples} if examples else {}),
            **self._generation(),
            **self._judged(),
            "truncation": "left",
        }

    def _refuse_unknown(self) -> None:
        if self._kind not in _REQUESTS:
            self._refusals.add("output_type", f"{self._kind} is none of {', '.join(_REQUESTS)}")
        for field, value in self._fields.items():
            if field in _WITHOUT_MEANING or field in _TRANSLATED or not value:
                continue
            function = f" (the Python function {value.name})" if isinstance(value, FunctionReference) else ""
            self._refusals.add(field, _WHY.get(field, "it is not translated") + function)
        if int(self._fields.get("repeats", 1)) != 1:
            self._refusals.add("repeats", "several samples of an item are averaged here, and filtered in the harness")

    def _asked(self) -> dict[str, Any]:
        """Return how the question is put, and what is right."""
        description = self._template("description", self._fields.get("description", ""))
        if description.columns:
            self._refusals.add("description", "a preamble is the same for all rows")
        if self._kind == "loglikelihood_rolling":
            if self._fields.get("doc_to_text"):
                self._refusals.add("doc_to_text", "a text that is scored by itself follows nothing")
            return {
                "request": "log_likelihood", "preamble": "", "prompt": "", "targets": self._target(),
                "failed_items": "excluded",
            }  # fmt: skip
        computed, right = self._right()
        return {
            **({"fields": computed} if computed else {}),
            "request": _REQUESTS.get(self._kind, ""),
            "preamble": description.source,
            "prompt": self._prompt(),
            "delimiter": self._fields.get("target_delimiter", " "),
            **right,
        }

    def _prompt(self) -> str:
        told = self._fields.get("doc_to_text", "")
        has_choices = "doc_to_choice" in self._fields
        if isinstance(told, int):
            self._refusals.add("doc_to_text", "choices that have a context each are not translated")
            return ""
        template = self._template("doc_to_text", told)
        if has_choices and isinstance(told, str) and is_column(told):
            # A column of numbers would mean that each choice has a context of its own. Adding text to a number fails.
            return "{{ " + told + " + '' }}"
        return template.source

    def _right(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return computed columns, and the fields that say which answers are right."""
        target = self._target()
        if "doc_to_choice" not in self._fields:
            if self._kind == "multiple_choice":
                self._refusals.add("doc_to_choice", "a multiple-choice task needs it")
            return {}, {"targets": target}
        try:
            choices, columns = choices_expression(self._fields["doc_to_choice"])
        except UntranslatableError as error:
            self._refusals.add("doc_to_choice", str(error))
            return {}, {}
        self._columns |= columns
        computed = {CHOICES: choices, TARGET: target}
        gold = gold_expression(self._fields.get("doc_to_target"))
        if self._kind == "multiple_choice":
            metrics = [each.get("metric") for each in self._fields.get("metric_list") or ()]
            unconditional = {"unconditional_prompt": ""} if "acc_mutual_info" in metrics else {}
            return computed, {"choices": CHOICES, **unconditional, "gold": gold}
        return computed, {"targets": f"{CHOICES}[{gold}]"}

    def _target(self) -> str:
        try:
            expression, columns = target_expression(self._fields.get("doc_to_target"))
        except UntranslatableError as error:
            self._refusals.add("doc_to_target", str(error))
            return ""
        self._columns |= columns
        return expression

    def _few_shot(self) -> dict[str, Any] | None:
        config = self._fields.get("fewshot_config") or {}
        for name in sorted(set(config) - _FEWSHOT_OPTIONS):
            self._refusals.add(f"fewshot_config.{name}", "examples are put as the question is")
        count = int(self._fields.get("num_fewshot", 0))
        if count == 0:
            return None
        if self._kind == "loglikelihood_rolling":
            self._refusals.add("num_fewshot", "a text that is scored by itself follows nothing")
        separator = self._fields.get("fewshot_delimiter", "\n\n")
        if isinstance(config.get("samples"), list) and "split" not in config and "fewshot_split" not in self._fields:
            return {"count": count, "examples": config["samples"], "separator": separator}
        if "samples" in config:
            self._refusals.add("fewshot_config.samples", "examples are a list, or rows of a split")
        if config.get("sampler", "default") != "first_n":
            self._remarks.append(f"The {count} examples are the first rows; the harness draws them with a seed.")
        return {"count": count, "split": example_split(self._fields), "separator": separator}

    def _generation(self) -> dict[str, Any]:
        if self._kind != "generate_until":
            return {}
        separator = str(self._fields.get("fewshot_delimiter", "\n\n"))
        return {"generation": generation(self._fields.get("generation_kwargs"), separator, self._refusals)}

    def _judged(self) -> dict[str, Any]:
        uses = scorer_uses(self._fields, self._refusals)
        names = [each if isinstance(each, str) else each["name"] for use in uses for each in use["metrics"]]
        return {"scorers": uses, "primary_metric": names[0] if names else ""}

    def _template(self, field: str, value: Any) -> JinjaText:
        if isinstance(value, FunctionReference) or not isinstance(value, str):
            told = f"the Python function {value.name}" if isinstance(value, FunctionReference) else repr(value)
            self._refusals.add(field, f"it is {told}; write a template in its place")
            return JinjaText("", frozenset())
        try:
            template = JinjaText.parse(value)
        except UntranslatableError as error:
            self._refusals.add(field, str(error))
            return JinjaText("", frozenset())
        self._columns |= template.columns
        return template


def _identifier(name: str) -> str:
    text = re.sub(r"[^a-z0-9_]", "_", name.lower())
    return text if text[:1].isalpha() else f"task_{text}"

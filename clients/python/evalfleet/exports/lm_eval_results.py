"""lm-evaluation-harness: ``results_….json`` and ``samples_TASK_….jsonl``, as its 0.4 writes them.

Nothing has to be installed to write them. The texts of choices are not in the ledger: their places say which is which.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalfleet.exports.files import whole_file
from evalfleet.exports.sources import ExportedRun, by_item
from evalfleet.item_results import ItemResult
from evalfleet.item_texts import log_likelihoods_of
from evalfleet.results import TaskProgress, TaskTotals

_FILTER = "none"


def write(run: ExportedRun, folder: Path) -> list[Path]:
    """Write ``MODEL/results_TIME.json`` and a samples file a task; each item is one document with its repeats."""
    moment = run.ended.strftime("%Y-%m-%dT%H-%M-%S.%f")
    place = folder / _sanitized(f"evalfleet/{run.model_name}")
    results = place / f"results_{moment}.json"
    written = []
    hashes = {}
    for totals in run.tasks:
        path = place / f"samples_{re.sub(r'[^A-Za-z0-9_.-]', '_', totals.task)}_{moment}.jsonl"
        digest = hashlib.sha256()
        with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
            for line in _lines(run, totals):
                digest.update(line.encode())
                file.write(line)
        hashes[totals.task] = digest.hexdigest()
        written.append(path)
    with whole_file(results) as partial:
        text = json.dumps(_results(run, hashes), indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    return [results, *written]


def _sanitized(model: str) -> str:
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", model)


def _results(run: ExportedRun, hashes: dict[str, str]) -> dict[str, Any]:
    progress = {each.task: each for each in run.run.tasks}
    model = f"evalfleet/{run.model_name}"
    return {
        "results": {each.task: _task_results(run, each) for each in run.tasks},
        "group_subtasks": {each.task: [] for each in run.tasks},
        "configs": {each.task: _config(run, each, progress.get(each.task)) for each in run.tasks},
        "versions": {each.task: "evalfleet" for each in run.tasks},
        # How many examples a prompt has is in the task's definition, which results do not carry.
        "n-shot": {},
        "higher_is_better": {
            each.task: {one.metric: not run.lower_is_better(each.task, one.metric) for one in run.estimates(each.task)}
            for each in run.tasks
        },
        "n-samples": {each.task: _counts(each, progress.get(each.task)) for each in run.tasks},
        "config": {
            "model": "evalfleet",
            "model_args": {"model": run.model_name, "digest": run.run.model_digest},
            "limit": run.run.item_limit,
            "random_seed": run.run.seed,
            "batch_size": None,
            "device": None,
            "use_cache": None,
            "gen_kwargs": None,
        },
        "git_hash": "",
        "date": (run.run.start_time or run.ended).timestamp(),
        "task_hashes": hashes,
        "model_source": "evalfleet",
        "model_name": model,
        "model_name_sanitized": _sanitized(model),
        "system_instruction": None,
        "chat_template": None,
        "total_evaluation_time_seconds": str(run.run.seconds or 0.0),
        "evalfleet": {
            "run": run.run.name,
            "suite": run.run.suite,
            "suite_digest": run.run.suite_digest,
            "cost": {each.task: _cost(each) for each in run.tasks},
            "stopped_early": {each.task: run.stopped_early(each.task) for each in run.tasks},
        },
    }


def _task_results(run: ExportedRun, totals: TaskTotals) -> dict[str, Any]:
    told: dict[str, Any] = {"alias": totals.task, "name": totals.task, "sample_len": totals.item_count}
    for each in run.estimates(totals.task):
        if each.value is not None:
            told[f"{each.metric},{_FILTER}"] = each.value
            told[f"{each.metric}_stderr,{_FILTER}"] = "N/A" if each.standard_error is None else each.standard_error
    return told


def _config(run: ExportedRun, totals: TaskTotals, progress: TaskProgress | None) -> dict[str, Any]:
    described = run.task(totals.task)
    return {
        "task": totals.task,
        "description": "",
        "metric_list": [
            {
                "metric": each.metric,
                "aggregation": "mean",
                "higher_is_better": not run.lower_is_better(each.task, each.metric),
            }
            for each in run.estimates(totals.task)
        ],
        "metadata": {
            "evalfleet_data_digest": progress.data_digest if progress else "",
            "comparable_to": described.comparable_to if described else "",
        },
    }


def _counts(totals: TaskTotals, progress: TaskProgress | None) -> dict[str, int]:
    original = progress.item_count if progress and progress.item_count else totals.item_count
    return {"original": original, "effective": totals.item_count}


def _cost(totals: TaskTotals) -> dict[str, float]:
    return {
        "cost_usd": totals.cost_usd,
        "engine_seconds": totals.engine_seconds,
        "computed_tokens": totals.computed_tokens,
        "prefix_saved_tokens": totals.prefix_saved_tokens,
        "cache_saved_tokens": totals.cache_saved_tokens,
    }


def _lines(run: ExportedRun, totals: TaskTotals) -> Iterator[str]:
    metrics = [each.metric for each in run.estimates(totals.task)]
    for samples in by_item(run.read(totals.task)):
        yield json.dumps(_document(samples, metrics), ensure_ascii=False, allow_nan=False) + "\n"


def _document(samples: list[ItemResult], metrics: list[str]) -> dict[str, Any]:
    first = samples[0]
    target = first.targets[0] if len(first.targets) == 1 else json.dumps(list(first.targets), ensure_ascii=False)
    likelihoods = [log_likelihoods_of(each.output) for each in samples]
    if likelihoods[0]:
        arguments = [(first.prompt, f"[choice {index}]") for index in range(len(likelihoods[0]))]
        responses: list[Any] = [
            [[str(each[index]), "None"] for each in likelihoods if each] for index in range(len(arguments))
        ]
        filtered: list[Any] = [repeats[0] for repeats in responses]
    else:
        arguments, responses, filtered = [(first.prompt, "{}")], [[each.output for each in samples]], [first.output]
    values = {metric: _mean([each.value(metric) for each in samples]) for metric in metrics}
    doc = {"id": first.item, **first.groups}
    return {
        "doc_id": first.draw_index,
        "doc": doc,
        "target": target,
        "arguments": {
            f"gen_args_{index}": {"arg_0": each[0], "arg_1": each[1]} for index, each in enumerate(arguments)
        },
        "resps": responses,
        "filtered_resps": filtered,
        "filter": _FILTER,
        "metrics": [metric for metric, value in values.items() if value is not None],
        "doc_hash": _hash(json.dumps(doc, sort_keys=True)),
        "prompt_hash": _hash(first.prompt),
        "target_hash": _hash(target),
        **{metric: value for metric, value in values.items() if value is not None},
        "evalfleet": {
            "failures": [[failure.reason, failure.message] for each in samples for failure in each.failures],
            "extracted_answers": [each.extracted_answer for each in samples],
            "cost_usd": sum(each.usage.cost_usd for each in samples),
        },
    }


def _mean(values: list[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

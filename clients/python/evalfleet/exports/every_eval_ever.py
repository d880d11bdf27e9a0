"""Every Eval Ever 0.3.0: one aggregate file and one file of samples, where its data store wants them.

A sample has a line for every metric, as the schema asks. There is no field for cost: it is in ``additional_details``,
and each sample's in its ``metadata``, as text; both stand at the first metric alone, as do a sample's tokens and time,
so that they may be added up. An item without a value has a line with its ``error``, the score 0 and
``"is_scored": "false"``, since the schema leaves nobody without a score.
"""

import hashlib
import json
import uuid
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final

from evalfleet.exports.files import whole_file
from evalfleet.exports.sources import ExportedRun, ExportError
from evalfleet.item_results import ItemResult
from evalfleet.item_texts import conversation_of
from evalfleet.results import Estimate, TaskTotals

SCHEMA_VERSION: Final = "0.3.0"
RELATIONSHIPS: Final = ("first_party", "third_party", "collaborative", "other")
_NAMESPACE: Final = uuid.UUID("5f0b3c2e-7d0a-4d1b-9a3e-2c8f6b1d4e70")
_RESERVED: Final = frozenset(
    ["CON", "PRN", "AUX", "NUL", *(f"{name}{number}" for name in ("COM", "LPT") for number in range(1, 10))]
)


@dataclass(slots=True)
class _Samples:
    """What is known of the samples once they are written."""

    line_count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    least: dict[tuple[str, str], float] = field(default_factory=dict)
    most: dict[tuple[str, str], float] = field(default_factory=dict)

    def add(self, key: tuple[str, str], value: float) -> None:
        """Note a value of a task's metric."""
        self.least[key] = min(value, self.least.get(key, value))
        self.most[key] = max(value, self.most.get(key, value))


def write(run: ExportedRun, folder: Path) -> list[Path]:
    """Write ``data/SUITE/DEVELOPER/MODEL/UUID.json`` and ``…_samples.jsonl``; the same run has the same names.

    Raises:
        ExportError: the publisher's relationship is none of the schema's, or no estimate has a value.
    """
    if run.publisher.relationship not in RELATIONSHIPS:
        raise ExportError(f"the relationship is one of {', '.join(RELATIONSHIPS)}", reason="UNKNOWN_RELATIONSHIP")
    about = _About.of(run)
    place = Path("data") / about.collection / about.developer / about.model
    aggregate, samples = place / f"{about.file_id}.json", place / f"{about.file_id}_samples.jsonl"
    found = _Samples()
    with whole_file(folder / samples) as partial, partial.open("wb") as file:
        for totals in run.tasks:
            _write_samples(run, totals, about, file, found)
    document = _aggregate(run, about, found, samples)
    with whole_file(folder / aggregate) as partial:
        partial.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return [folder / aggregate, folder / samples]


@dataclass(frozen=True, slots=True)
class _About:
    """What names the evaluation in both files."""

    collection: str
    developer: str
    model: str
    evaluation_id: str
    file_id: str

    @property
    def model_id(self) -> str:
        """The model as the data store knows it."""
        return f"{self.developer}/{self.model}"

    @classmethod
    def of(cls, run: ExportedRun) -> "_About":
        collection = _path_part(run.run.suite.removeprefix("suites/"))
        developer, model = _path_part(run.publisher.developer), _path_part(run.model_name)
        evaluation_id = f"{collection}/{developer}/{model}/{int(run.ended.timestamp())}"
        digest = uuid.uuid5(_NAMESPACE, f"{run.run.name} {run.run.model_digest} {run.ended.isoformat()}").bytes
        # The data store takes version 4 alone; made of the run, so that a second export replaces the first.
        return cls(collection, developer, model, evaluation_id, str(uuid.UUID(bytes=digest, version=4)))


def _path_part(text: str) -> str:
    """Make a directory name that every file system and the data store take."""
    kept = "".join(each if each.isalnum() or each in "-_." else "-" for each in text).strip(".- ") or "unnamed"
    return f"_{kept}" if kept.split(".")[0].upper() in _RESERVED or kept == "data" else kept


def _write_samples(run: ExportedRun, totals: TaskTotals, about: _About, file: BinaryIO, found: _Samples) -> None:
    metrics = [each.metric for each in run.estimates(totals.task)]
    for result in run.read(totals.task):
        for index, metric in enumerate(metrics):
            value = result.value(metric)
            if value is not None:
                found.add((totals.task, metric), value)
            sample = _sample(run, result, metric, about)
            if index == 0:
                _add_usage(sample, result)
            line = json.dumps(sample, ensure_ascii=False, allow_nan=False)
            # Between lines other tools also take U+2028 and U+0085 for an end; JSON has another spelling for them.
            data = (line.translate(_LINE_ENDS) + "\n").encode()
            found.digest.update(data)
            found.line_count += 1
            file.write(data)


_LINE_ENDS: Final = {number: f"\\u{number:04x}" for number in (0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)}


def _sample(run: ExportedRun, result: ItemResult, metric: str, about: _About) -> dict[str, Any]:
    value = result.value(metric)
    lower = run.lower_is_better(result.task, metric)
    reference = json.dumps([result.prompt, list(result.targets)], ensure_ascii=False)
    failure = next((each for each in result.failures if not each.metrics or metric in each.metrics), None)
    extracted = result.extracted_answer
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": about.evaluation_id,
        "model_id": about.model_id,
        "evaluation_name": result.task,
        "evaluation_result_id": f"{result.task}/{metric}",
        "sample_id": result.item,
        "sample_hash": hashlib.sha256(reference.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": _question(result.prompt), "formatted": result.prompt, "reference": list(result.targets)},
        "output": {"raw": [result.output]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": result.output if extracted is None else extracted,
                "extraction_method": "none" if extracted is None else "scorer",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": value or 0.0, "is_correct": _is_correct(value, lower_is_better=lower)},
        "error": f"{failure.reason}: {failure.message}" if failure else None,
        "metadata": _metadata(result, metric, value),
    }


def _add_usage(sample: dict[str, Any], result: ItemResult) -> None:
    """Say in one of an item's lines what it took."""
    usage = result.usage
    sample["token_usage"] = {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "input_tokens_cache_read": usage.prefix_saved_tokens,
    }
    sample["performance"] = {"generation_time_ms": usage.engine_seconds * 1000}
    sample["metadata"] |= {
        "computed_tokens": str(usage.computed_tokens),
        "cache_saved_tokens": str(usage.cache_saved_tokens),
        "engine_seconds": repr(usage.engine_seconds),
        "cost_usd": repr(usage.cost_usd),
    }


def _question(prompt: str) -> str:
    """The last turn of a conversation, or the prompt as it was sent."""
    turns = conversation_of(prompt)
    return turns[-1][1] if turns else prompt


def _is_correct(value: float | None, *, lower_is_better: bool) -> bool:
    """Right is what is more than half right."""
    return value is not None and (value < 0.5 if lower_is_better else value > 0.5)


def _metadata(result: ItemResult, metric: str, value: float | None) -> dict[str, str]:
    judged = ", ".join(f"{each.name}@{each.version}" for each in result.judges)
    return {
        "metric": metric,
        "is_scored": str(value is not None).lower(),
        "sample": str(result.sample),
        "draw_index": str(result.draw_index),
        "judges": judged,
        **{f"group_{name}": text for name, text in result.groups.items()},
    }


def _aggregate(run: ExportedRun, about: _About, found: _Samples, samples: Path) -> dict[str, Any]:
    results = []
    for totals in run.tasks:
        of_task = [_result(run, totals, each, found) for each in run.estimates(totals.task) if each.value is not None]
        for first in of_task[:1]:
            first["generation_config"] = {"additional_details": _cost(totals)}
        results += of_task
    if not results:
        raise ExportError(f"{run.run.name} has no estimate with a value", reason="NO_ESTIMATES")
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": about.evaluation_id,
        "evaluation_timestamp": str(int((run.run.start_time or run.ended).timestamp())),
        "retrieved_timestamp": str(int(run.ended.timestamp())),
        "source_metadata": {
            "source_name": "EvalFleet",
            "source_type": "evaluation_run",
            "source_organization_name": run.publisher.organization,
            "evaluator_relationship": run.publisher.relationship,
            "additional_details": {
                "run": run.run.name,
                "suite_digest": run.run.suite_digest,
                "seed": str(run.run.seed),
            },
        },
        "eval_library": {"name": "evalfleet", "version": version("evalfleet")},
        "model_info": _model_info(run, about),
        "evaluation_results": results,
        "detailed_evaluation_results": {
            "format": "jsonl",
            "file_path": samples.as_posix(),
            "hash_algorithm": "sha256",
            "checksum": found.digest.hexdigest(),
            "total_rows": found.line_count,
        },
    }


def _model_info(run: ExportedRun, about: _About) -> dict[str, Any]:
    is_foreign = run.model is not None and bool(run.model.foreign)
    info: dict[str, Any] = {
        "name": run.model_name,
        "id": about.model_id,
        "developer": run.publisher.developer,
        "additional_details": {
            "deployment_type": "unknown" if is_foreign else "self_deployed",
            "model_availability": "unknown",
            "model_digest": run.run.model_digest,
        },
    }
    if run.model is not None and run.model.engine:
        info["inference_engine"] = {"name": run.model.engine}
    return info


def _result(run: ExportedRun, totals: TaskTotals, each: Estimate, found: _Samples) -> dict[str, Any]:
    progress = next((one for one in run.run.tasks if one.task == totals.task), None)
    described = run.task(totals.task)
    details = {
        "data_digest": progress.data_digest if progress else "",
        "comparable_to": described.comparable_to if described else "",
    }
    return {
        "evaluation_result_id": f"{totals.task}/{each.metric}",
        "evaluation_name": totals.task,
        "source_data": {
            "dataset_name": totals.task,
            "source_type": "other",
            "additional_details": {name: text for name, text in details.items() if text},
        },
        "metric_config": _metric_config(run, each, found),
        "score_details": {
            "score": each.value,
            "details": {**_score_details(each, totals), "stopped_early": str(run.stopped_early(each.task)).lower()},
            "uncertainty": _uncertainty(each),
        },
    }


def _metric_config(run: ExportedRun, each: Estimate, found: _Samples) -> dict[str, Any]:
    key = (each.task, each.metric)
    least, most = found.least.get(key, 0.0), found.most.get(key, 1.0)
    is_share = least >= 0 and most <= 1
    return {
        "metric_id": f"evalfleet.{each.metric}",
        "metric_name": each.metric,
        "lower_is_better": run.lower_is_better(each.task, each.metric),
        "score_type": "continuous",
        "min_score": 0.0 if is_share else "-Infinity",
        "max_score": 1.0 if is_share else "Infinity",
    }


def _score_details(each: Estimate, totals: TaskTotals) -> dict[str, str]:
    details = {
        "scored_count": str(each.scored_count),
        "failed_count": str(each.failed_count),
        "failed_counted": str(each.failed_counted),
        "unjudged_count": str(each.unjudged_count),
        "truncated_count": str(totals.truncated_count),
    }
    if each.task_value is not None and each.task_interval is not None:
        # Of a task that stopped early: what the whole of it would score.
        details["task_value"] = repr(each.task_value)
        details["task_interval"] = f"{each.task_interval.lower!r} … {each.task_interval.upper!r}"
    return details


def _uncertainty(each: Estimate) -> dict[str, Any]:
    told: dict[str, Any] = {"num_samples": each.sample_count}
    if each.standard_error is not None:
        told["standard_error"] = {"value": each.standard_error, "method": "analytic"}
    if each.interval is not None:
        told["confidence_interval"] = {
            "lower": each.interval.lower,
            "upper": each.interval.upper,
            "confidence_level": each.interval.confidence_level,
            "method": each.interval.method,
        }
    return told


def _cost(totals: TaskTotals) -> dict[str, str]:
    return {
        "cost_usd": repr(totals.cost_usd),
        "engine_seconds": repr(totals.engine_seconds),
        "prompt_tokens": str(totals.prompt_tokens),
        "completion_tokens": str(totals.completion_tokens),
        "computed_tokens": str(totals.computed_tokens),
        "prefix_saved_tokens": str(totals.prefix_saved_tokens),
        "cache_saved_tokens": str(totals.cache_saved_tokens),
    }

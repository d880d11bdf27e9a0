"""The harness's metrics and filters as uses of our scorers, which compute the same."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalfleet.plugins.lm_eval_tasks.refusals import Refusals
from evalfleet.plugins.lm_eval_tasks.task_files import FunctionReference

_CHOICE_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
_DEFAULT_METRICS: Mapping[str, Sequence[str]] = {
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
}
_COMPARISON = ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore")
_FILTER_PARAMETERS: Mapping[str, frozenset[str]] = {
    "regex": frozenset({"regex_pattern", "group_select", "fallback"}),
    "map": frozenset({"mapping_dict", "default_value"}),
    "lowercase": frozenset(),
    "uppercase": frozenset(),
    "remove_whitespace": frozenset(),
    "take_first": frozenset(),
}
_NO_FILTER = "none"
# Corpus measures of the harness; the aggregation service makes them of these sums (docs/scorers.md, perplexity).
_TEXT_MEASURES = [
    {"name": "token_probability"},
    {"name": "bits_per_byte", "higher_is_better": False},
    {"name": "nats", "higher_is_better": False},
    "bytes",
    "words",
    "tokens",
]


def scorer_uses(fields: Mapping[str, Any], refusals: Refusals) -> list[dict[str, Any]]:
    """Return the `scorers` of a task; what has no equal is noted."""
    kind = str(fields.get("output_type", "generate_until"))
    metrics = list(_metrics(fields, kind, refusals))
    match kind:
        case "multiple_choice":
            _refuse_filters(fields, refusals)
            return [{"scorer": "multiple_choice", "metrics": [name for name, _ in metrics]}]
        case "loglikelihood_rolling":
            _refuse_filters(fields, refusals)
            return [{"scorer": "perplexity", "metrics": _TEXT_MEASURES}]
        case _:
            return list(_matches(fields, metrics, refusals))


def _metrics(fields: Mapping[str, Any], kind: str, refusals: Refusals) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (name, options) of the metrics that a task reports."""
    known = _CHOICE_METRICS if kind == "multiple_choice" else _DEFAULT_METRICS.get(kind, ())
    listed = fields.get("metric_list") or [{"metric": name} for name in _DEFAULT_METRICS.get(kind, ())]
    for index, each in enumerate(listed):
        field = f"metric_list[{index}]"
        name = each.get("metric")
        if isinstance(name, FunctionReference) or name not in known:
            told = name.name if isinstance(name, FunctionReference) else name
            refusals.add(f"{field}.metric", f"{told} has no equal; known for {kind}: {', '.join(known)}")
            continue
        if kind != "loglikelihood_rolling" and each.get("aggregation", "mean") != "mean":
            refusals.add(f"{field}.aggregation", "only the mean over items is computed")
        if each.get("hf_evaluate"):
            refusals.add(f"{field}.hf_evaluate", "metrics of the package evaluate are not used")
        if each.get("higher_is_better", True) is not True and kind != "loglikelihood_rolling":
            refusals.add(f"{field}.higher_is_better", f"more of {name} is better")
        given = {"metric", "aggregation", "higher_is_better", "hf_evaluate"}
        options = {key: value for key, value in each.items() if key not in given}
        foreign = sorted(set(options).difference(_COMPARISON if name == "exact_match" else ()))
        for option in foreign:
            refusals.add(f"{field}.{option}", f"{name} has no such parameter")
        yield name, {key: value for key, value in options.items() if key not in foreign}


def _matches(
    fields: Mapping[str, Any], metrics: Sequence[tuple[str, Mapping[str, Any]]], refusals: Refusals
) -> Iterator[dict[str, Any]]:
    """Yield an exact match for each pipeline of filters."""
    pipelines = fields.get("filter_list") or [{"name": _NO_FILTER, "filter": [{"function": "take_first"}]}]
    for index, pipeline in enumerate(pipelines):
        filters = list(_filters(f"filter_list[{index}].filter", pipeline.get("filter", ()), refusals))
        for name, options in metrics:
            shown = name if pipeline.get("name", _NO_FILTER) == _NO_FILTER else _identifier(str(pipeline["name"]))
            parameters = {**({"filters": filters} if filters else {}), **options}
            yield {
                "scorer": "exact_match",
                **({"parameters": parameters} if parameters else {}),
                "metrics": [{"name": shown, "from": "exact_match"}],
            }


def _filters(field: str, steps: Sequence[Mapping[str, Any]], refusals: Refusals) -> Iterator[dict[str, Any]]:
    is_taken = False
    for index, step in enumerate(steps):
        name = str(step.get("function"))
        options = {key: value for key, value in step.items() if key != "function"}
        if name not in _FILTER_PARAMETERS:
            refusals.add(f"{field}[{index}].function", f"{name} is no filter of ours: {', '.join(_FILTER_PARAMETERS)}")
        elif foreign := sorted(set(options) - _FILTER_PARAMETERS[name]):
            refusals.add(f"{field}[{index}].{foreign[0]}", f"the filter {name} has no such parameter")
        elif is_taken:
            # The harness hands such a filter the letters of the answer, one by one.
            refusals.add(f"{field}[{index}].function", "nothing may follow take_first")
        elif name == "take_first":
            is_taken = True
        else:
            yield {"function": name, **options}


def _refuse_filters(fields: Mapping[str, Any], refusals: Refusals) -> None:
    for index, pipeline in enumerate(fields.get("filter_list") or ()):
        if any(step.get("function") != "take_first" for step in pipeline.get("filter", ())):
            refusals.add(f"filter_list[{index}]", "only generated texts are filtered")


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", text.lower())

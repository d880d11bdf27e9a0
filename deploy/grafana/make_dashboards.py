"""Write Grafana's dashboards: `python deploy/grafana/make_dashboards.py` after a change here; a test compares.

Panels are rows of three, every one a question that somebody has, with the queries that answer it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
_DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
_VARIABLES = {"caller": "evalfleet_generation_caller_tokens_total", "run": "evalfleet_run_items"}
"""What can be chosen, a label, by the series whose values it has."""
_WIDTH, _HEIGHT, _COLUMNS = 8, 8, 3


@dataclass(frozen=True, slots=True)
class Panel:
    """One question.

    Attributes:
        title: the question.
        queries: PromQL by what its lines are called in the legend.
        unit: Grafana's name of it.
        about: what to make of it.
        kind: ``timeseries``, ``stat`` or ``table``.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page of panels.

    Attributes:
        uid: names it in addresses.
        title: for people.
        panels: in their order.
        about: what it is for.
        variables: what can be chosen, of ``_VARIABLES``.
    """

    uid: str
    title: str
    panels: Sequence[Panel]
    about: str
    variables: tuple[str, ...] = ()


FLEET = Dashboard(
    "evalfleet-fleet",
    "EvalFleet: fleet",
    (
        Panel("What is away?", {"{{job}} {{instance}}": 'up{job=~".+"} == 0'}, kind="table"),
        Panel("Own faults by service", {"{{job}}": "job:evalfleet_own_faults:ratio_rate5m"}, "percentunit"),
        Panel(
            "Calls a second", {"{{job}} {{grpc_method}}": "topk(12, job_method:evalfleet_calls:rate5m > 0)"}, "reqps"
        ),
        Panel(
            "Work in hand", {"{{job}} {{state}}": "job:evalfleet_work_items:sum"}, about="What replicas are scaled on."
        ),
        Panel("Longest wait", {"{{job}}": "max by (job) (evalfleet_oldest_wait_seconds)"}, "s"),
        Panel("Tokens that wait for the engine", {"{{instance}}": "evalfleet_backlog_tokens"}),
        Panel(
            "Slowest calls (p99)",
            {"{{job}} {{grpc_method}}": "topk(12, job_method:evalfleet_call_seconds:p99_5m)"},
            "s",
            "Of calls with one answer.",
        ),
        Panel(
            "Calls sent away",
            {
                "{{job}}: full": "sum by (job) (rate(evalfleet_calls_rejected_total[5m]))",
                "{{job}}: {{reason}}": "sum by (job, reason) (rate(evalfleet_calls_refused_total[5m]))",
            },
            "reqps",
        ),
        Panel(
            "Engines: share of the time that they compute",
            {"{{instance}} {{model}}": "rate(evalfleet_engine_busy_seconds_total[5m])"},
            "percentunit",
        ),
        Panel(
            "Engines: tokens a second",
            {
                "{{model}} prompt": "sum by (model) (rate(evalfleet_engine_prompt_tokens_total[5m]))",
                "{{model}} generated": "sum by (model) (rate(evalfleet_engine_generated_tokens_total[5m]))",
            },
        ),
        Panel("Models", {"{{state}}": "sum by (state) (evalfleet_generation_models)"}),
        Panel("Memory", {"{{job}} {{instance}}": "process_resident_memory_bytes"}, "bytes"),
    ),
    "Is it up, is it busy, is it getting worse?",
)

RUN = Dashboard(
    "evalfleet-run",
    "EvalFleet: one run",
    (
        Panel(
            "Its items",
            {"{{run}} {{state}}": 'sum by (run, state) (evalfleet_run_items{run=~"$run"})'},
            about="A run is here while it is open, up to 50 of each replica; what it found: evalfleet show RUN.",
        ),
        Panel(
            "Its items a second",
            {
                "{{run}} {{state}}": "sum by (run, state) "
                '(clamp_min(deriv(evalfleet_run_items{run=~"$run",state!="open"}[2m]), 0))'
            },
        ),
        Panel("Its time", {"{{run}}": 'time() - min by (run) (evalfleet_run_start_time_seconds{run=~"$run"})'}, "s"),
        Panel(
            "Outcomes a second, of all runs",
            {"{{result}}": "sum by (result) (rate(evalfleet_evaluation_outcomes_total[1m]))"},
            about="What follows is of all runs, or of one caller's: choose the time of yours.",
        ),
        Panel(
            "Why items fail",
            {"{{reason}}": "sum by (reason) (increase(evalfleet_evaluation_failures_total[$__range]))"},
            kind="table",
        ),
        Panel(
            "Items that services have, and that wait until they may be given",
            {"{{state}}": 'sum by (state) (evalfleet_work_items{job="evaluation"})'},
        ),
        Panel(
            "How many items each service is given at once",
            {"{{service}} at {{instance}}": "evalfleet_peer_items_limit"},
            about="It falls when a service pushes back: that one is what the run waits for.",
        ),
        Panel(
            "At the engine, and waiting for it",
            {
                "at the engine": "sum(evalfleet_generation_engine_requests_running)",
                "waiting": "sum(evalfleet_generation_engine_requests_waiting)",
            },
        ),
        Panel(
            "Answers from the cache",
            {"{{outcome}}": "sum by (outcome) (rate(evalfleet_generation_cache_lookups_total[5m]))"},
        ),
        Panel(
            "Tokens a second", {"{{kind}}": 'sum by (kind) (caller_kind:evalfleet_tokens:rate5m{caller=~"$caller"})'}
        ),
        Panel(
            "Outputs that scorers have in hand",
            {
                "in hand": "sum(evalfleet_scoring_held_requests)",
                "waiting for a process": "sum(evalfleet_scoring_pool_waiting_outputs)",
            },
        ),
        Panel(
            "The ledger: seconds of an append (p99)",
            {
                "p99": "histogram_quantile(0.99, sum by (le) "
                '(rate(grpc_server_call_duration_seconds_bucket{grpc_method=~".*/AppendResults"}[5m])))'
            },
            "s",
        ),
    ),
    "How far is a run, and what does it wait for? Choose it, its time and its caller.",
    variables=("run", "caller"),
)

SAFETY = Dashboard(
    "evalfleet-safety",
    "EvalFleet: safety quality",
    (
        Panel(
            "Share of unsafe verdicts",
            {"{{guard}}": "guard:evalfleet_unsafe:ratio_rate1h"},
            "percentunit",
            "A jump is a new model, a new suite or a changed guard: evalfleet servers safety shows digests.",
        ),
        Panel(
            "Share that guards could not judge",
            {"{{guard}}": "guard:evalfleet_unjudged:ratio_rate15m"},
            "percentunit",
            "They count as unsafe: guards fail closed.",
        ),
        Panel(
            "Verdicts a second",
            {"{{guard}} {{decision}}": "sum by (guard, decision) (rate(evalfleet_safety_verdicts_total[5m]))"},
        ),
        Panel(
            "Cascades: share that reaches the last stage",
            {
                "{{cascade}}": 'sum by (cascade) (rate(evalfleet_safety_cascade_turns_total{is_last="true"}[15m])) '
                "/ sum by (cascade) (rate(evalfleet_safety_cascade_turns_total[15m]))"
            },
            "percentunit",
        ),
        Panel(
            "Cascades: stages that could not judge",
            {"{{cascade}} {{stage}}": "sum by (cascade, stage) (rate(evalfleet_safety_cascade_failures_total[15m]))"},
        ),
        Panel(
            "Verdicts from the cache",
            {"{{outcome}}": "sum by (outcome) (rate(evalfleet_safety_cache_lookups_total[5m]))"},
        ),
        Panel(
            "Classify: seconds",
            {
                f"p{share}": f"histogram_quantile(0.{share}, sum by (le) "
                '(rate(grpc_server_call_duration_seconds_bucket{grpc_method=~".*SafetyService/(Classify|BatchClassify)"}[5m])))'
                for share in (50, 99)
            },
            "s",
        ),
        Panel("Turns in hand", {"{{state}}": 'sum by (state) (evalfleet_work_items{job="safety"})'}),
        Panel(
            "Texts that guards read a second",
            {"{{model}}": "sum by (model) (rate(evalfleet_engine_classified_texts_total[5m]))"},
        ),
    ),
    "Can the verdicts be believed, and have they changed?",
)

COST = Dashboard(
    "evalfleet-cost",
    "EvalFleet: cost",
    (
        Panel(
            "USD an hour",
            {"{{caller}}": '3600 * caller:evalfleet_cost_usd:rate1h{caller=~"$caller"}'},
            "currencyUSD",
            "By the price table of the generation service; without one it is 0.",
        ),
        Panel(
            "USD in the chosen time",
            {
                "{{caller}}": "sum by (caller) "
                '(increase(evalfleet_generation_caller_cost_usd_total{caller=~"$caller"}[$__range]))'
            },
            "currencyUSD",
            kind="table",
        ),
        Panel(
            "Engine hours in the chosen time",
            {
                "{{caller}}": "sum by (caller) "
                '(increase(evalfleet_generation_caller_engine_seconds_total{caller=~"$caller"}[$__range])) / 3600'
            },
            "h",
            kind="table",
        ),
        Panel("Share of tokens that were saved", {"saved": "evalfleet_saved_tokens:ratio_rate5m"}, "percentunit"),
        Panel(
            "Tokens a second, computed and saved",
            {"{{kind}}": 'sum by (kind) (caller_kind:evalfleet_tokens:rate5m{caller=~"$caller"})'},
        ),
        Panel(
            "Tokens from shared prefixes in the engine, and padding",
            {
                "prefixes": "sum(rate(evalfleet_engine_cached_tokens_total[5m]))",
                "padding": "sum(rate(evalfleet_engine_padding_tokens_total[5m]))",
            },
        ),
    ),
    "Who spends what, and what do caches save?",
    variables=("caller",),
)

DASHBOARDS = (FLEET, RUN, SAFETY, COST)


def as_json(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana reads it."""
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["evalfleet"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_variable(each) for each in dashboard.variables]},
        "panels": [_panel(index, each) for index, each in enumerate(dashboard.panels)],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _variable(name: str) -> dict[str, Any]:
    query = f"label_values({_VARIABLES[name]}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": query, "refId": f"{name}s"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    is_table = panel.kind == "table"
    return {
        "id": index + 1,
        "title": panel.title,
        "description": panel.about,
        "type": panel.kind,
        "datasource": _DATASOURCE,
        "gridPos": {
            "x": index % _COLUMNS * _WIDTH,
            "y": index // _COLUMNS * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": is_table,
                "format": "table" if is_table else "time_series",
            }
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each.uid.removeprefix('evalfleet-')}.json").write_text(as_json(each), encoding="utf-8")

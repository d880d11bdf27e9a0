"""How our scaling rules, read from k8s/, do on loads that no test can make, beside the rules of others.

Each load is served by the same simulated pool of replicas under five rules: ours (the ScaledObject of
components/keda, decided by KEDA's and the HorizontalPodAutoscaler's own algorithms), a pool of fixed size for the
peak, vLLM production-stack's rule (five waiting requests a replica), a GPU utilisation of 80 %, and one that knows the
future. Nothing here is measured on GPUs: what a replica does is given, in benchmarks/autoscaling/scenarios.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from benchmarks.autoscaling.drawing import draw
from benchmarks.autoscaling.manifests import COMPONENTS, read_document, scaled_object
from benchmarks.autoscaling.scenarios import Scenario, all_scenarios
from benchmarks.autoscaling.simulation import Outcome, other_rules, our_rule, simulate
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result

OURS = COMPONENTS / "keda/triton.yaml"
_COLUMNS = (
    "GPU hours",
    "mean wait s",
    "99 % wait s",
    "late",
    "most",
    "fewest",
    "begun again",
    "run minutes",
)


def outcomes_of(scenario: Scenario) -> Mapping[str, Outcome]:
    """What each rule does with a scenario."""
    rules = {"ours": our_rule(scaled_object(read_document(OURS))), **other_rules()}
    return {name: simulate(scenario, rule) for name, rule in rules.items()}


def figures_of(scenario: Scenario, outcomes: Mapping[str, Outcome]) -> dict[str, float]:
    """The figures of one scenario, by key."""
    figures: dict[str, float] = {}
    for name, outcome in outcomes.items():
        key = f"{scenario.name}_{name}"
        figures[f"{key}_gpu_hours"] = outcome.gpu_hours
        figures[f"{key}_mean_wait_seconds"] = outcome.mean_wait
        figures[f"{key}_p99_wait_seconds"] = outcome.wait_quantile(0.99)
        figures[f"{key}_late_share"] = outcome.late_share
        figures[f"{key}_most_replicas"] = max(outcome.replicas)
        figures[f"{key}_begun_again_items"] = outcome.begun_again
        if scenario.runs and None not in outcome.run_seconds:
            figures[f"{key}_mean_run_minutes"] = outcome.mean_run_minutes
        if scenario.metrics_outage.begins_at < scenario.seconds:
            before, fewest = outcome.least_replicas(scenario.metrics_outage)
            figures[f"{key}_replicas_shed_in_outage"] = max(0, before - fewest)
    ours = outcomes["ours"].gpu_hours
    for name in ("fixed", "clairvoyant"):
        figures[f"{scenario.name}_gpu_hours_ratio_over_{name}"] = ours / outcomes[name].gpu_hours
    return figures


def print_table(scenario: Scenario, outcomes: Mapping[str, Outcome]) -> None:
    """Show what each rule did."""
    print(f"\n{scenario.title}\n{'':16}" + "".join(f"{each:>13}" for each in _COLUMNS))
    for name, outcome in outcomes.items():
        print(
            f"{name:16}{outcome.gpu_hours:13,.0f}{outcome.mean_wait:13.1f}{outcome.wait_quantile(0.99):13.0f}"
            f"{outcome.late_share:13.1%}{max(outcome.replicas):13}{min(outcome.replicas):13}{outcome.begun_again:13,}"
            + (f"{outcome.mean_run_minutes:13.1f}" if scenario.runs else "")
        )


def main() -> int:
    """Read the arguments, simulate, write figures and picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.autoscale_simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/autoscale_simulation.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/images/autoscale_simulation.svg")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    found = {}
    for scenario in all_scenarios():
        outcomes = outcomes_of(scenario)
        found[scenario.name] = (scenario, outcomes)
        figures |= figures_of(scenario, outcomes)
        print_table(scenario, outcomes)
    draw(found, options.plot)
    write_result(
        options.json,
        options.json.stem,
        figures=figures,
        versions=installed_versions("numpy", "matplotlib"),
        notes=[
            f"ours: {OURS.relative_to(ROOT)}, read by the simulation; late: waited longer than 120 s",
            "given, not measured: 64 items at once a replica, 20 s an item, 240 s to start; the thousand: 120 s, 420 s",
            "fixed: for the peak, 80 % busy; queue_depth: vLLM production-stack's rule; gpu_utilisation: HPA at 80 %",
            "clairvoyant knows the load: replicas are ready when needed, all busy, and go at once; nothing can do so",
        ],
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

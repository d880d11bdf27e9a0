"""Replay real models' results through the aggregation service's own rules: how many items does each decision need?

For every matrix, models and seeds are replayed item by item: until the range is ±2 points, until a gate five points
from the truth is decided, and until it is decided whether the model beats its predecessor. Checkpoint sequences are
also replayed as whole training runs in which every checkpoint stops early. Beside them stands what people do today:
all items, z-tests that are repeated until one is significant, and a fixed subset of 100. Shares are of the items: 1 is
the full evaluation.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

# Also when it is run as a file, from the root of the repository.
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.decisions.finish_order import false_passes
from benchmarks.decisions.matrices import Matrix, read_matrix
from benchmarks.decisions.replay import RULES, Findings, case_of, replay
from benchmarks.decisions.today import Habits, replay_habits
from benchmarks.decisions.training_run import replay_training_run
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result

_KINDS: Final = ("precision", "gate", "a_vs_b", "planned")
_ERRORS: Final = {
    "boundary_false_pass": "boundary_passed",
    "interval_miss": "missed",
    "gate_wrong": "gate_wrong",
    "a_vs_b_wrong": "a_vs_b_wrong",
    "planned_miss": "planned_missed",
}


def replay_matrix(matrix: Matrix, models: int, repeats: int, seed: int) -> tuple[dict[str, Findings], Habits]:
    """Replay some models of a matrix, each several times, under every rule, and as people do it today."""
    chance = random.Random(f"{seed} {matrix.name}")
    chosen = _chosen(matrix, models, chance)
    found, habits = {rule: Findings() for rule in RULES}, Habits()
    for number, model in enumerate(chosen, start=1):
        _progress(f"{matrix.name}: model {number} of {len(chosen)}")
        case = case_of(matrix, model)
        for repeat in range(repeats):
            drawn = 2 * chance.randrange(2**30) + repeat % 2
            for rule in RULES:
                found[rule].extend(replay(case, rule, drawn))
            habits.extend(replay_habits(case, drawn))
    _progress("")
    return found, habits


def _chosen(matrix: Matrix, count: int, chance: random.Random) -> list[int]:
    """Choose models that have a predecessor; on a board half of them such as can be compared with it, if possible."""
    able = [each for each in range(len(matrix.scores)) if matrix.predecessor(each) is not None]
    comparable = [] if matrix.is_sequence else [each for each in able if matrix.is_comparable(each)]
    chosen = chance.sample(comparable, min(count // 2, len(comparable)))
    others = [each for each in able if each not in chosen]
    return sorted([*chosen, *chance.sample(others, min(count - len(chosen), len(others)))])


def training_run_figures(matrix: Matrix, repeats: int, seed: int) -> dict[str, float]:
    """Return the mean share of items a checkpoint if every checkpoint stops early, with history and without."""
    figures = {}
    for rule, name in (("prev_neyman", "training_run_share"), ("uniform", "training_run_uniform_share")):
        _progress(f"{matrix.name}: training runs, {rule}")
        runs = [replay_training_run(matrix, rule, seed + repeat) for repeat in range(repeats)]
        shares = [each for run in runs for each in run.shares]
        figures[f"{matrix.name}_{name}"] = float(np.mean(shares))
        figures[f"{matrix.name}_{name}_median"] = float(np.median(shares))
        figures[f"{matrix.name}_{name.replace('_share', '_wrong')}"] = _rate(
            [each for run in runs for each in run.wrong]
        )
    _progress("")
    return figures


def share_figures(name: str, rule: str, found: Findings) -> dict[str, float]:
    """Return the median and 90th percentile of the shares of one matrix and rule."""
    figures = {}
    for kind in _KINDS:
        shares = getattr(found, kind)
        if shares:
            figures[f"{name}_{rule}_{kind}_median"] = float(np.median(shares))
            figures[f"{name}_{rule}_{kind}_p90"] = float(np.quantile(shares, 0.9))
    return figures


def error_figures(name: str, found: Sequence[Findings]) -> dict[str, float]:
    """Return the shares of wrong answers over some replays."""
    figures = {}
    for error, attribute in _ERRORS.items():
        values = [each for one in found for each in getattr(one, attribute)]
        if values:
            figures[f"{name}_{error}"] = _rate(values)
    return figures


def family_figures(figures: Mapping[str, float], matrices: Sequence[Matrix]) -> dict[str, float]:
    """Return means over the matrices of a family of their own figures, as the reference's table has them."""
    means = {}
    for family in dict.fromkeys(each.family for each in matrices):
        names = [each.name for each in matrices if each.family == family]
        for ending in [f"{rule}_{kind}_{at}" for rule in RULES for kind in _KINDS for at in ("median", "p90")]:
            values = [figures[f"{name}_{ending}"] for name in names if f"{name}_{ending}" in figures]
            if values:
                means[f"{family}_{ending}"] = float(np.mean(values))
    return means


def habit_figures(habits: Habits) -> dict[str, float]:
    """Return what today's habits cost and how often they are wrong, pooled over all matrices."""
    return {
        "pooled_peek_boundary_false_pass": _rate(habits.peek_boundary_passed),
        "pooled_peek_gate_wrong": _rate(habits.peek_gate_wrong),
        "pooled_peek_a_vs_b_wrong": _rate(habits.peek_a_vs_b_wrong),
        "pooled_subset_100_off_by_2_points": _rate(habits.subset_off),
        "pooled_subset_100_regression_off_by_2_points": _rate(habits.subset_regression_off),
    }


def _rate(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}", end="" if text else "\r", file=sys.stderr, flush=True)


def _print_rows(name: str, figures: Mapping[str, float]) -> None:
    for rule in RULES:
        cells = []
        for kind in _KINDS:
            median, high = (figures.get(f"{name}_{rule}_{kind}_{at}") for at in ("median", "p90"))
            cells.append("      –       " if median is None or high is None else f"{median:6.1%} /{high:6.1%}")
        print(f"{name:22} {rule:12} " + "  ".join(cells), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/decision_cost.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = ROOT.parent / "shared" / "data" / "response-matrices"
    parser.add_argument("--matrices", type=Path, default=default, help="folder of npz files with Y, strata, steps")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/decision_cost.json")
    parser.add_argument("--models", type=int, default=8, help="models of each matrix (default 8)")
    parser.add_argument("--reps", type=int, default=8, help="seeds of each model (default 8)")
    parser.add_argument("--training-runs", type=int, default=4, help="replays of each checkpoint sequence (default 4)")
    parser.add_argument("--orders", type=int, default=200, help="runs in which wrong answers are slow (default 200)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=None, help="names of matrices (default: all)")
    arguments = parser.parse_args()
    wanted = arguments.only
    arguments.files = [
        each for each in sorted(arguments.matrices.glob("*.npz")) if wanted is None or each.stem in wanted
    ]
    if not arguments.files:
        parser.error(f"there are no such npz files in {arguments.matrices}; name the folder with --matrices")
    return arguments


def main() -> None:
    """Read the arguments, replay, print a table, and write the result."""
    arguments = _arguments()
    began = time.perf_counter()
    figures: dict[str, float] = {}
    by_rule: dict[str, list[Findings]] = {rule: [] for rule in RULES}
    habits, matrices = Habits(), [read_matrix(each) for each in arguments.files]
    print(f"{'':35} " + "  ".join(f"{each:14}" for each in ("±2 points", "gate 5 off", "A versus B", "±2, one look")))
    for matrix in matrices:
        found, today = replay_matrix(matrix, arguments.models, arguments.reps, arguments.seed)
        habits.extend(today)
        for rule, each in found.items():
            by_rule[rule].append(each)
            figures |= share_figures(matrix.name, rule, each)
        figures |= error_figures(matrix.name, list(found.values()))
        if today.ppr:
            figures[f"{matrix.name}_ppr_precision_median"] = float(np.median(today.ppr))
            figures[f"{matrix.name}_ppr_precision_p90"] = float(np.quantile(today.ppr, 0.9))
        _print_rows(matrix.name, figures)
        if matrix.is_sequence:
            figures |= training_run_figures(matrix, arguments.training_runs, arguments.seed)
    families = family_figures(figures, matrices)
    for family in dict.fromkeys(each.family for each in matrices):
        _print_rows(family, families)
    figures |= families | error_figures("pooled", [each for all_found in by_rule.values() for each in all_found])
    for rule, all_found in by_rule.items():
        figures |= error_figures(f"pooled_{rule}", all_found)
    figures |= habit_figures(habits) | _orders(matrices, arguments.seed, arguments.orders)
    for name, value in figures.items():
        if any(each in name for each in ("pooled", "order", "training_run", "ppr")):
            print(f"{name:60} {value:.4f}")
    _write(arguments, figures, sum(len(each.missed) for found in by_rule.values() for each in found), began)


def _orders(matrices: Sequence[Matrix], seed: int, repeats: int) -> dict[str, float]:
    """Simulate slow wrong answers with the largest list's model of middling score."""
    whole = [each for each in matrices if each.is_whole]
    if not whole:
        return {}
    largest = max(whole, key=lambda each: each.scores.shape[1])
    middling = int(np.argmin(np.abs(largest.scores.mean(axis=1) - 0.5)))
    return false_passes(largest.scores[middling], seed, repeats)


def _write(arguments: argparse.Namespace, figures: Mapping[str, float], replays: int, began: float) -> None:
    write_result(
        arguments.json,
        "decision_cost",
        figures=figures,
        versions=installed_versions("numpy", "scipy"),
        notes=[
            f"{arguments.models} models of each matrix, {arguments.reps} seeds each, three rules: {replays} replays in "
            f"{time.perf_counter() - began:.0f} s; shares of the items, 1 is the full evaluation",
            "boundary: the threshold is one item above the truth; pooled: over all matrices, pooled_*: all rules too",
            "prev: predictions from earlier checkpoints, or on boards from all other models; prev_neyman: draws are "
            "weighted by them too; planned: the range of one planned look, not certified; ppr: the textbook range",
            "training_run: every checkpoint stops early, history only from what was evaluated; the first one is "
            "evaluated in full and not counted",
            "completion_order: 256 in flight, wrong answers four times as slow, taken in draw order; finish_order: "
            "taken as they finish",
        ],
    )


if __name__ == "__main__":
    main()

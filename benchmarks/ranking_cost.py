"""Replay rankings of real models through the aggregation service's own rule: what does finding the best take?

Random sets of models of each matrix are ranked in fresh orders, until the best is known. Beside it stands what people
do today: a paired z-test that is repeated until one is significant. Shares are of the items that full runs of all
models would ask; an error is a winner that another model beats.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.decisions.matrices import read_matrix
from benchmarks.decisions.rankings import TOLERANCE, Rankings, replay_rankings
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result

ALPHA = 0.05


def main() -> None:
    """Read the arguments, replay, print a table, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranking_cost", description=__doc__)
    default = ROOT.parent / "shared" / "data" / "response-matrices"
    parser.add_argument("--matrices", type=Path, default=default, help="folder of npz files with Y, strata, steps")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/ranking_cost.json")
    parser.add_argument("--models", type=int, default=8, help="models of a ranking (default 8)")
    parser.add_argument("--top", type=int, default=1, help="how many are wanted (default 1)")
    parser.add_argument("--orders", type=int, default=40, help="rankings of each matrix (default 40)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began, figures, pooled = time.perf_counter(), dict[str, float](), Rankings()
    columns = f"{'median / p90':>16} {'wrong':>7}  within ±{TOLERANCE}: {'median':>6} {'wrong':>6}"
    print(f"{'':22} {columns}    z-tests: {'median':>8} {'wrong':>7}")
    for file in sorted(arguments.matrices.glob("*.npz")):
        matrix = read_matrix(file)
        if len(matrix.scores) <= arguments.top:
            continue
        found = replay_rankings(
            matrix,
            models=arguments.models,
            keep=arguments.top,
            orders=arguments.orders,
            seed=arguments.seed,
            alpha=ALPHA,
        )
        pooled.extend(found)
        figures |= _figures(matrix.name, found)
        _print_row(matrix.name, figures)
    if not pooled.shares:
        parser.error(f"there are no npz files in {arguments.matrices}; name the folder with --matrices")
    figures |= _figures("pooled", pooled)
    _print_row("pooled", figures)
    write_result(
        arguments.json,
        "ranking_cost",
        figures=figures,
        versions=installed_versions("numpy", "scipy"),
        notes=[
            f"the best {arguments.top} of {arguments.models} models drawn at random from each matrix, "
            f"{arguments.orders} times in fresh orders, alpha {ALPHA}: {len(pooled.shares)} rankings in "
            f"{time.perf_counter() - began:.0f} s",
            "share: items asked of all models over those of full runs; wrong: the winner is not the best",
            f"tolerance: the same where the winner may be worse than others by {TOLERANCE}; wrong: it is worse by more",
            "z_tests: paired z-tests of every pair at 5 %, repeated every 16 items from the 32nd on",
        ],
    )


def _figures(name: str, found: Rankings) -> dict[str, float]:
    return {
        f"{name}_share_median": float(np.median(found.shares)),
        f"{name}_share_p90": float(np.quantile(found.shares, 0.9)),
        f"{name}_share_mean": float(np.mean(found.shares)),
        f"{name}_wrong": float(np.mean(found.wrong)),
        f"{name}_tolerance_share_median": float(np.median(found.tolerant_shares)),
        f"{name}_tolerance_share_p90": float(np.quantile(found.tolerant_shares, 0.9)),
        f"{name}_tolerance_wrong": float(np.mean(found.tolerant_wrong)),
        f"{name}_z_tests_share_median": float(np.median(found.peeking_shares)),
        f"{name}_z_tests_wrong": float(np.mean(found.peeking_wrong)),
    }


def _print_row(name: str, figures: dict[str, float]) -> None:
    median, high, wrong, tied, tied_wrong, theirs, failed = (
        figures[f"{name}_{each}"]
        for each in (
            "share_median",
            "share_p90",
            "wrong",
            "tolerance_share_median",
            "tolerance_wrong",
            "z_tests_share_median",
            "z_tests_wrong",
        )
    )
    print(
        f"{name:22} {median:7.1%} /{high:6.1%} {wrong:7.1%}               {tied:7.1%} {tied_wrong:6.1%}"
        f"             {theirs:8.1%} {failed:7.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()

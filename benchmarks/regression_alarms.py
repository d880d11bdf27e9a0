"""Replay training runs of real checkpoints through the regression watch: false alarms, and how soon a drop is noticed.

The runs are made of real checkpoints' results without anything lost or learned on the way, or with a drop of 2 or 5
points at a random checkpoint. Beside the watch stands what people do: a one-sided paired z-test of each checkpoint
against the one before. The real sequences are replayed as they are, too, through CheckRegressions' own function.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.decisions.matrices import Matrix, read_matrix
from benchmarks.decisions.training_alarms import RATE, TOLERANCE, Alarms, repeated
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from services.aggregation.comparison.answers import Answer
from services.aggregation.comparison.draw_orders import DrawOrder
from services.aggregation.comparison.watching import WatchedMetric, check_regressions
from services.aggregation.records import Cost, Observation, ResultKey, Scored
from services.aggregation.texts import StoredText

_PIECE = 1000
_PROMPT = StoredText(None, "", None)
_BOUNDARY_ITEMS = 1000
_WATCHED = WatchedMetric("replay", "score")


class MatrixAnswers:
    """An ``AnswerSource`` of a matrix: the run ``runs/7`` has the results of checkpoint 7."""

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self._scores = scores

    async def answers(self, run: str, task: str | None) -> AsyncGenerator[Sequence[Answer]]:
        """See ``AnswerSource.answers``."""
        row = self._scores[int(run.partition("/")[2])]
        for start in range(0, len(row), _PIECE):
            yield [
                Answer(_observation(index, float(row[index])), index, "[]", _PROMPT)
                for index in range(start, min(start + _PIECE, len(row)))
            ]

    async def order(self, run: str, task: str) -> DrawOrder | None:
        """Nobody drew them."""
        return None

    async def newest_runs(self, task: str, limit: int) -> Sequence[str]:
        """Return all runs."""
        return [f"runs/{index}" for index in range(len(self._scores))][:limit]

    async def model_digest(self, run: str, task: str) -> str | None:
        """Return a digest of its own for each."""
        return run


def _observation(index: int, score: float) -> Observation:
    return Observation(
        ResultKey(_WATCHED.task, f"{index:08}", 0), Scored({_WATCHED.metric: score}), {}, Cost(), is_truncated=False
    )


def real_alarms(matrix: Matrix) -> list[tuple[int, int]]:
    """Return (alarm, change) of a real sequence, by the service's own function."""
    runs = [f"runs/{index}" for index in range(len(matrix.scores))]
    found = asyncio.run(
        check_regressions(MatrixAnswers(matrix.scores), runs, [_WATCHED], tolerance=TOLERANCE, false_alarm_rate=RATE)
    )
    return [(each.run_index, each.change_index) for each in found.alarms]


def replay(matrix: Matrix, runs: int, length: int, seed: int) -> dict[str, float]:
    """Return the figures of one matrix."""
    name, figures = matrix.name, dict[str, float]()
    for kind, items, size in (
        ("stationary", None, None),
        ("boundary", _BOUNDARY_ITEMS, TOLERANCE),
        ("drop_2_points", None, 0.02),
        ("drop_5_points", None, 0.05),
        ("drop_2_points_1000_items", _BOUNDARY_ITEMS, 0.02),
        ("drop_5_points_1000_items", _BOUNDARY_ITEMS, 0.05),
    ):
        alarms, changes = repeated(matrix.scores, seed, runs=runs, length=length, items=items, size=size)
        if kind in ("stationary", "boundary"):
            watch, tests = alarms.false_alarms()
            figures |= {f"{name}_{kind}_false_alarm": watch, f"{name}_{kind}_z_tests_false_alarm": tests}
        else:
            figures |= _delays(f"{name}_{kind}", alarms, changes, length)
    real = real_alarms(matrix)
    figures[f"{name}_real_alarms"] = len(real)
    if real:
        figures[f"{name}_real_first_alarm"] = real[0][0]
        figures[f"{name}_real_first_change"] = real[0][1]
    return figures


def _delays(name: str, alarms: Alarms, changes: Sequence[int], length: int) -> dict[str, float]:
    """Return how many checkpoints after the first worse one the alarm comes, and how often before it or not at all."""
    figures = {}
    for whose, found in (("", alarms.watch), ("z_tests_", alarms.z_tests)):
        pairs = list(zip(found, changes, strict=True))
        # One that never comes is as late as the run is long.
        delays = [
            length if alarm is None else alarm - change for alarm, change in pairs if alarm is None or alarm >= change
        ]
        figures[f"{name}_{whose}early"] = 1 - len(delays) / len(pairs)
        figures[f"{name}_{whose}missed"] = float(np.mean([alarm is None for alarm, _ in pairs]))
        if delays:
            figures[f"{name}_{whose}delay_median"] = float(np.median(delays))
            figures[f"{name}_{whose}delay_p90"] = float(np.quantile(delays, 0.9))
    return figures


def main() -> None:
    """Read the arguments, replay, print the figures, and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regression_alarms", description=__doc__)
    default = ROOT.parent / "shared" / "data" / "response-matrices"
    parser.add_argument("--matrices", type=Path, default=default, help="folder of npz files with Y and steps")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/regression_alarms.json")
    parser.add_argument("--runs", type=int, default=100, help="training runs of each kind (default 100)")
    parser.add_argument("--length", type=int, default=40, help="checkpoints of each (default 40)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began, figures = time.perf_counter(), dict[str, float]()
    for file in sorted(arguments.matrices.glob("*.npz")):
        matrix = read_matrix(file)
        if not (matrix.is_sequence and matrix.is_whole):
            continue
        found = replay(matrix, arguments.runs, arguments.length, arguments.seed)
        for name, value in found.items():
            print(f"{name:60} {value:.3f}", flush=True)
        figures |= found
    if not figures:
        parser.error(f"there are no checkpoint sequences in {arguments.matrices}; name the folder with --matrices")
    for kind in ("stationary", "boundary"):
        for whose in ("", "z_tests_"):
            values = [value for name, value in figures.items() if name.endswith(f"_{kind}_{whose}false_alarm")]
            figures[f"pooled_{kind}_{whose}false_alarm"] = float(np.mean(values))
    write_result(
        arguments.json,
        "regression_alarms",
        figures=figures,
        versions=installed_versions("numpy"),
        notes=[
            f"{arguments.runs} training runs of {arguments.length} checkpoints of each kind, tolerance {TOLERANCE}, "
            f"any false alarm in a run at most {RATE}; {time.perf_counter() - began:.0f} s",
            "false_alarm: share of runs with any alarm. stationary: nothing falls; boundary: the expected score falls "
            f"by exactly the tolerance, seen on {_BOUNDARY_ITEMS} items drawn from the real ones",
            "delay: checkpoints after the first worse one until the alarm; early: it came before the drop",
            "z_tests: one-sided paired z-tests at 5 % of each checkpoint against the one before",
            "real: the sequence as it is, through CheckRegressions' own function",
        ],
    )


if __name__ == "__main__":
    main()

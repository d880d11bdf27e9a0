"""Distil n-grams from the embedded guard with few labels, chosen and at random, and hold them against it and people.

The texts to choose from are the embedded guard's own training texts, whose labels are not looked at; the student is
measured on public texts that neither guard was trained on. Every budget is tried with several seeds, chosen and at
random with the same seeds, so that the gain of choosing is a difference of pairs.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.distillation.students import WAYS, Job, material, summary, trained
from benchmarks.report import installed_versions, write_result

BUDGETS: Final = (500, 1000, 2000, 4000)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EVALFLEET_DATA_DIR", "../shared/data")))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/distillation.json"), help="(%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--texts", type=int, default=6000, help="most texts to choose from (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2 (%(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="(%(default)s)")
    told = parser.parse_args()
    if told.seeds < 2:
        parser.error("--seeds must be at least 2, so that there is a standard error")
    started = time.monotonic()
    given, figures = material(told.data, told.encoder, told.texts)
    print(f"the large guard has judged {len(given.texts) + len(given.held_out)} texts ", end="")
    print(f"in {time.monotonic() - started:.0f} s", flush=True)
    # The longest first, so that no process ends up alone with one.
    budgets = sorted((each for each in BUDGETS if each <= len(given.texts)), reverse=True)
    jobs = [Job(*each) for each in product(WAYS, budgets, range(told.seeds))]
    # Spawned, because the threads of a forked torch may hang.
    with ProcessPoolExecutor(told.processes, mp_context=multiprocessing.get_context("spawn")) as workers:
        found = dict(zip(jobs, workers.map(partial(trained, given), jobs), strict=True))
    figures |= {"seeds": float(told.seeds), **summary(found, told.seeds), "seconds": time.monotonic() - started}
    write_result(
        told.json,
        "distillation",
        figures=figures,
        versions=installed_versions("evalfleet", "scikit-learn", "scipy", "numpy", "torch"),
        notes=[
            "Teacher: the embedded guard. Student: n-grams. Budgets include the quarter that is measured on.",
            "chosen: a quarter at random, then six rounds of what the student doubts, a quarter of each at random; "
            "random: as many labels, all at random. Means over the seeds; gain: chosen less random of the same seed.",
            "Measured on held-out public texts that neither guard was trained on; judged_share: those of which the "
            "student knows at least half of the words, and the other figures are on these.",
            "The standard errors are over seeds on the same held-out texts; they do not say what other texts would do.",
        ],
    )
    for key, value in figures.items():
        print(f"{key:45} {value:.4g}")


if __name__ == "__main__":
    main()

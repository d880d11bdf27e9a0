"""Calibrate a cascade on many random splits of public texts, and see what it costs and whether its promise holds.

The large guard is the service's embedded one. The cheap guard counts n-grams in the service's own process; it was
distilled from the large one's probabilities on the embedded guard's own training texts and on pieces of them. Both
judge every text once, none of which either was trained on; each split then orders thresholds on, rests its promise on,
and measures on three disjoint parts of them. That is done for two mixes of texts: what attackers send, and what
evaluations and training runs send (``benchmarks.cascade.texts``).
"""

import argparse
import os
from pathlib import Path
from typing import Final

import numpy as np
from evalfleet.calibration.fitting import Promise

from benchmarks.cascade.judging import Judgements, Judges
from benchmarks.cascade.lessons import with_pieces
from benchmarks.cascade.splits import measure
from benchmarks.cascade.texts import TRAFFIC_SHARES, adversarial_texts, traffic_texts
from benchmarks.report import installed_versions, write_result
from examples.guard_head.train import load_split

_SEED: Final = 7
_LONG_RUN: Final = (
    "violated_share",
    "violated_share_all_texts",
    "disagreement",
    "large_guard_compute_share",
    "cascade_compute_share",
)


def figures_of(prefix: str, judged: Judgements, promise: Promise, splits: int) -> dict[str, float]:
    """Return the figures of one mix of texts.

    Args:
        prefix: of their names.
        judged: the texts.
        promise: that is to be kept, in the long run and, in the figures without ``long_run_``, for the held-out rows.
        splits: how many.
    """
    long_run = measure(judged, promise, splits)
    promised = Promise(promise.epsilon, promise.delta, int(long_run["held_out_rows"]))
    figures = {
        "texts": float(len(judged.large)),
        "large_guard_unsafe_share": float(judged.large.mean()),
        "cheap_guard_compute_share": judged.cost_ratio,
        "cheap_guard_agreement": float(((judged.cheap >= 0.5) == judged.large).mean()),
        "cheap_guard_silent_share": float(np.isnan(judged.cheap).mean()),
        **measure(judged, promised, splits),
        **{f"long_run_{name}": long_run[name] for name in _LONG_RUN},
    }
    return {f"{prefix}{name}": value for name, value in figures.items()}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EVALFLEET_DATA_DIR", "../shared/data")))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/cascade.json"), help="(%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--pieces", type=int, default=8000, help="of texts, for the cheap guard (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.02, help="(%(default)s)")
    parser.add_argument("--delta", type=float, default=0.1, help="(%(default)s)")
    parser.add_argument("--splits", type=int, default=200, help="(%(default)s)")
    told = parser.parse_args()
    split = load_split(told.data, _SEED)
    mixes = {
        "traffic_": traffic_texts(told.data, split, _SEED),
        "": adversarial_texts(told.data, split),
    }
    lessons = with_pieces([each.text for each in split.training], told.pieces, _SEED)
    judges = Judges(told.encoder, lessons)
    figures: dict[str, float] = {
        "epsilon": told.epsilon,
        "delta": told.delta,
        "splits": told.splits,
        "lessons": float(len(lessons)),
    }
    figures |= {f"traffic_{kind}_share": share for kind, share in TRAFFIC_SHARES.items()}
    for prefix, texts in mixes.items():
        figures |= figures_of(prefix, judges.judge(texts), Promise(told.epsilon, told.delta), told.splits)
    write_result(
        told.json,
        "cascade",
        figures=figures,
        versions=installed_versions("evalfleet", "torch", "transformers", "scikit-learn", "numpy"),
        notes=[
            "Rows of development subsets that neither guard was trained on: all held-out red-team, moderation and "
            "look-alike rows, and questions of MMLU and TruthfulQA. traffic_: a mix for the traffic of evaluations and "
            "training runs: 5 % hazardous by people's labels, 5 % harmless rows of the same red-team and moderation "
            "sets, 5 % turns of hh-rlhf's dialogues, 42.5 % prompts and 42.5 % answers of capability sets.",
            "Large guard: the embedded one. Cheap guard: n-grams with logistic regression, distilled from it. Both "
            "read the beginning of long texts (256 tokens; 1,000 characters); the service reads them in windows.",
            "large_guard_compute_share: tokens that the large guard still reads, of all; cascade_compute_share adds "
            "the cheap guard's CPU seconds, as a share of the large guard's.",
            "unsafe_called_safe: of the texts that the large guard calls unsafe, the share that the cheap guard calls "
            "safe; safe_called_unsafe: the other way round.",
            "violated_share: splits whose held-out rows show more than epsilon, with the promise for exactly so many "
            "further rows; it may be delta.",
            "long_run_: with the promise for the long run. It says nothing of the chance in a few held-out rows; all "
            "texts together come nearer to the long run (violated_share_all_texts).",
        ],
    )
    for key, value in figures.items():
        print(f"{key:55} {value:.4g}")


if __name__ == "__main__":
    main()

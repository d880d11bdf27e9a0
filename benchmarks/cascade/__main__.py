"""Calibrate a cascade on many random splits of public sets, and see what it costs and whether its promise holds.

The large guard is the service's embedded one. The cheap guard counts n-grams in the service's own process; it was
distilled from the large one's probabilities on the embedded guard's own training texts. Both judge every text once,
none of which either was trained on; each split then orders thresholds on, rests its promise on, and measures on
three disjoint parts of them.
"""

import argparse
import os
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evalfleet.calibration.fitting import CascadeFit, JudgedRow, Promise, fit_cascade, measure_cascade
from numpy.typing import NDArray

from benchmarks.cascade.texts import texts_to_judge
from benchmarks.report import installed_versions, write_result
from examples.guard_head.scoring import MeasuredGuard, Scores
from examples.guard_head.train import load_split
from services.distillation.ngrams import fit_ngrams
from services.safety.guard_models import EMBEDDED_FOLDER

# The n-gram guard answers ERROR, so that a cascade hands on, where it knows fewer of a text's words.
_FEWEST_KNOWN = 0.5
_COMPARED = ("violated_share", "violated_share_all_texts", "disagreement", "large_guard_compute_share")


@dataclass(frozen=True, slots=True)
class Judgements:
    """What both guards said, once a text.

    Attributes:
        cheap: the cheap guard's unsafe probabilities; NaN where it says nothing.
        large: the large guard's decisions.
        tokens: of each text.
        cost_ratio: CPU seconds of the cheap guard over those of the large one, on all texts.
    """

    cheap: Scores
    large: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    cost_ratio: float

    def rows(self) -> list[JudgedRow]:
        """The texts as a calibration reads them."""
        return [
            JudgedRow((None if np.isnan(p) else float(p),), bool(each))
            for p, each in zip(self.cheap, self.large, strict=True)
        ]


def centred(probabilities: Scores, threshold: float) -> Scores:
    """Return targets whose 0.5 is the teacher's threshold, piecewise linear on both sides of it."""
    below, above = probabilities / (2 * threshold), 1 - (1 - probabilities) / (2 * (1 - threshold))
    return np.where(probabilities < threshold, below, above)


def judge(data: Path, encoder: Path | None, seed: int, taught_texts: int) -> Judgements:
    """Distil the cheap guard, and have both guards judge the texts."""
    split = load_split(data, seed)
    texts = texts_to_judge(data, split)
    guard = MeasuredGuard(EMBEDDED_FOLDER, encoder)
    lessons = random.Random(seed).sample([each.text for each in split.training], taught_texts)
    model = fit_ngrams(lessons, centred(guard.unsafe_probabilities(lessons), guard.threshold))
    started = time.process_time()
    answers = model.read(texts)
    cheap_seconds = time.process_time() - started
    started = time.process_time()
    judged = guard.judge(texts)
    large_seconds = time.process_time() - started
    return Judgements(
        cheap=np.where(answers.known_shares < _FEWEST_KNOWN, np.nan, answers.probabilities.max(axis=1)),
        large=judged.unsafe_probabilities >= guard.threshold,
        tokens=judged.num_tokens,
        cost_ratio=cheap_seconds / large_seconds,
    )


def large_guard_share(fit: CascadeFit, judged: Judgements) -> float:
    """Return the share of all tokens that the large guard still reads."""
    (thresholds,) = fit.thresholds
    escalated = np.array([np.isnan(each) or thresholds.decide(float(each)) is None for each in judged.cheap])
    return float(judged.tokens[escalated].sum() / judged.tokens.sum())


def measure(judged: Judgements, promise: Promise, splits: int) -> dict[str, float]:
    """Return the figures over random splits."""
    rows = judged.rows()
    fits = [fit_cascade(rows, promise, seed=seed) for seed in range(splits)]
    held_out = [fit.held_out for fit in fits]
    shares = [large_guard_share(fit, judged) for fit in fits]
    stages = [fit.stages[0] for fit in fits]
    figures = {
        "large_guard_compute_share": statistics.mean(shares),
        "large_guard_compute_share_max": max(shares),
        "cascade_compute_share": statistics.mean(shares) + judged.cost_ratio,
        "escalated_share": statistics.mean(each.escalated_share for each in held_out),
        "disagreement": statistics.mean(each.disagreement for each in held_out),
        "disagreement_max": max(each.disagreement for each in held_out),
        "violated_share": statistics.mean(each.disagreement > promise.epsilon for each in held_out),
        "violated_share_all_texts": statistics.mean(
            measure_cascade(fit.thresholds, rows).disagreement > promise.epsilon for fit in fits
        ),
        "held_out_rows": held_out[0].rows,
        "promise_rows": fits[0].promise_rows,
    }
    for name in ("equal_width", "equal_mass", "log_loss"):
        for moment in ("errors_before", "errors_after"):
            values = [getattr(errors, name) for stage in stages if (errors := getattr(stage, moment)) is not None]
            figures[f"calibration_{name}_{moment.removeprefix('errors_')}"] = statistics.mean(values)
    return figures


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EVALFLEET_DATA_DIR", "../shared/data")))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/cascade.json"), help="(%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--taught-texts", type=int, default=16000, help="that the cheap guard learns on (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.02, help="(%(default)s)")
    parser.add_argument("--delta", type=float, default=0.1, help="(%(default)s)")
    parser.add_argument("--splits", type=int, default=200, help="(%(default)s)")
    told = parser.parse_args()
    judged = judge(told.data, told.encoder, 7, told.taught_texts)
    figures: dict[str, float] = {
        "epsilon": told.epsilon,
        "delta": told.delta,
        "splits": told.splits,
        "texts": len(judged.large),
        "large_guard_unsafe_share": float(judged.large.mean()),
        "cheap_guard_compute_share": judged.cost_ratio,
        "cheap_guard_agreement": float(((judged.cheap >= 0.5) == judged.large).mean()),
        "cheap_guard_silent_share": float(np.isnan(judged.cheap).mean()),
    }
    long_run = measure(judged, Promise(told.epsilon, told.delta), told.splits)
    figures |= measure(judged, Promise(told.epsilon, told.delta, int(long_run["held_out_rows"])), told.splits)
    figures |= {f"long_run_{name}": long_run[name] for name in _COMPARED}
    write_result(
        told.json,
        "cascade",
        figures=figures,
        versions=installed_versions("evalfleet", "torch", "transformers", "numpy"),
        notes=[
            "Rows of development subsets that neither guard was trained on: red-team, moderation and look-alike sets, "
            "and questions of capability sets.",
            "Large guard: the embedded one. Cheap guard: n-grams with logistic regression, distilled from it.",
            "large_guard_compute_share: tokens that the large guard still reads, of all; cascade_compute_share adds "
            "the cheap guard's CPU seconds, as a share of the large guard's.",
            "violated_share: splits whose held-out rows show more than epsilon, with the promise for exactly so many "
            "further rows; it may be delta.",
            "long_run_: with the promise for the long run. It says nothing of the chance in a few held-out rows; all "
            "texts together come nearer to the long run (violated_share_all_texts).",
        ],
    )
    for key, value in figures.items():
        print(f"{key:45} {value:.4g}")


if __name__ == "__main__":
    main()

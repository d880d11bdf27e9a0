"""What a calibrated cascade costs and errs, over random splits of the same texts."""

import statistics

import numpy as np
from evalfleet.calibration.fitting import CascadeFit, Promise, fit_cascade, measure_cascade
from numpy.typing import NDArray

from benchmarks.cascade.judging import Judgements


def measure(judged: Judgements, promise: Promise, splits: int) -> dict[str, float]:
    """Return the figures over random splits.

    Args:
        judged: by both guards.
        promise: that each split's thresholds are to keep.
        splits: how many.
    """
    rows = judged.rows()
    fits = [fit_cascade(rows, promise, seed=seed) for seed in range(splits)]
    held_out = [fit.held_out for fit in fits]
    decided = [_decided(fit, judged) for fit in fits]
    shares = [_token_share(judged, np.isnan(each)) for each in decided]
    figures = {
        "large_guard_compute_share": statistics.mean(shares),
        "large_guard_compute_share_max": max(shares),
        "cascade_compute_share": statistics.mean(shares) + judged.cost_ratio,
        "escalated_share": statistics.mean(each.escalated_share for each in held_out),
        "disagreement": statistics.mean(each.disagreement for each in held_out),
        "disagreement_max": max(each.disagreement for each in held_out),
        "unsafe_called_safe": statistics.mean(float((each == 0)[judged.large].mean()) for each in decided),
        "safe_called_unsafe": statistics.mean(float((each == 1)[~judged.large].mean()) for each in decided),
        "violated_share": statistics.mean(each.disagreement > promise.epsilon for each in held_out),
        "violated_share_all_texts": statistics.mean(
            measure_cascade(fit.thresholds, rows).disagreement > promise.epsilon for fit in fits
        ),
        "held_out_rows": held_out[0].rows,
        "promise_rows": fits[0].promise_rows,
    }
    return figures | _calibration_errors(fits)


def _calibration_errors(fits: list[CascadeFit]) -> dict[str, float]:
    """Return the expected calibration errors before and after temperature scaling, as means over splits."""
    stages = [fit.stages[0] for fit in fits]
    figures: dict[str, float] = {}
    for name in ("equal_width", "equal_mass", "log_loss"):
        for moment in ("errors_before", "errors_after"):
            values = [getattr(errors, name) for stage in stages if (errors := getattr(stage, moment)) is not None]
            figures[f"calibration_{name}_{moment.removeprefix('errors_')}"] = statistics.mean(values)
    return figures


def _decided(fit: CascadeFit, judged: Judgements) -> NDArray[np.float64]:
    """Return what the cheap guard decides of each text: 1 unsafe, 0 safe, NaN what it hands on."""
    (thresholds,) = fit.thresholds
    decisions = (thresholds.decide(float(each)) for each in judged.cheap)
    return np.array([np.nan if each is None else float(each) for each in decisions])


def _token_share(judged: Judgements, chosen: NDArray[np.bool_]) -> float:
    return float(judged.tokens[chosen].sum() / judged.tokens.sum())

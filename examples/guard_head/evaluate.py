"""Measure the embedded guard: ``python -m examples.guard_head.evaluate --data DIR --json FILE``.

Runs the engine that serves the guard inside Triton, with the committed weights, on the fifth of the public texts that
was held out from its tuning, beside TF-IDF with logistic regression fitted on the same training texts.
"""

import argparse
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import ROOT, lm_eval_python
from benchmarks.report import installed_versions, write_result
from examples.guard_head.corpus import Example
from examples.guard_head.measures import at_threshold, average_precision, resampled_interval
from examples.guard_head.public_sets import xstest_responses
from examples.guard_head.scoring import Judged, MeasuredGuard
from examples.guard_head.splitting import Split
from examples.guard_head.train import load_split
from services.safety.guard_models import EMBEDDED_FOLDER

# Sets of harmful requests are measured together with those of harmless ones: neither has both.
HARMFUL: Final = ("harmbench", "advbench", "do_not_answer")
BENIGN: Final = ("gsm8k", "boolq", "commonsenseqa", "piqa")
SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "openai_moderation": ("openai_moderation",),
    "surge_toxicity": ("surge_toxicity",),
    "hatecheck": ("hatecheck",),
    "xstest": ("xstest",),
    "requests": (*HARMFUL, *BENIGN),
}

Scores = NDArray[np.float64]


def figures_of(name: str, scores: Scores, labels: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """Return the flat figures of one set; shares are 0 to 1, intervals hold 95 % of 2,000 resamples of the rows."""
    at = at_threshold(scores, labels, threshold)
    low, high = resampled_interval(scores, labels, average_precision)
    f1_low, f1_high = resampled_interval(scores, labels, lambda s, known: at_threshold(s, known, threshold).f1)
    return {
        f"{name}_rows": len(labels),
        f"{name}_rows_unsafe": int(labels.sum()),
        f"{name}_auprc": average_precision(scores, labels),
        f"{name}_auprc_low": low,
        f"{name}_auprc_high": high,
        f"{name}_f1": at.f1,
        f"{name}_f1_low": f1_low,
        f"{name}_f1_high": f1_high,
        f"{name}_precision": at.precision,
        f"{name}_recall": at.recall,
        f"{name}_false_positive_rate": at.false_positive_rate,
    }


def measure(test: Sequence[Example], scores: Scores, baseline: Scores, threshold: float) -> dict[str, float]:
    """Return the figures of all sets of the held-out texts."""
    labels = np.array([each.is_unsafe for each in test])
    figures: dict[str, float] = {"threshold": threshold}
    for name, sources in SETS.items():
        rows = np.array([each.source in sources for each in test])
        figures |= figures_of(name, scores[rows], labels[rows], threshold)
        figures[f"{name}_baseline_auprc"] = average_precision(baseline[rows], labels[rows])
    figures["xstest_over_refusal"] = figures["xstest_false_positive_rate"]
    for source in (*HARMFUL, *BENIGN):
        rows = np.array([each.source == source for each in test])
        kind = "recall" if source in HARMFUL else "false_positive_rate"
        figures[f"{source}_{kind}"] = float((scores[rows] >= threshold).mean())
    return figures


def hazard_figures(own: Sequence[Example], judged: Judged, threshold: float) -> dict[str, float]:
    """Return how well hazards are named on our own held-out sentences, the only ones with labels of all hazards."""
    shown = [(each, scores) for each, scores in zip(own, judged.hazards, strict=True) if each.hazards]
    named = [scores[0].category.code in each.hazards for each, scores in shown]
    reached = [
        any(score.category.code in each.hazards and (score.probability or 0.0) >= threshold for score in scores)
        for each, scores in shown
    ]
    labels = np.array([each.is_unsafe for each in own])
    return {
        **figures_of("own_sentences", judged.unsafe_probabilities, labels, threshold),
        "own_sentences_right_hazard_first": sum(named) / len(named),
        "own_sentences_right_hazard_reached": sum(reached) / len(reached),
    }


def baseline_scores(texts: Split) -> Scores:
    """Return the probabilities that TF-IDF with logistic regression gives the held-out texts."""
    asked = {
        "train": [(each.text, int(each.is_unsafe)) for each in texts.training],
        "test": [each.text for each in texts.test],
    }
    script = ROOT / "benchmarks" / "peers" / "tfidf_baseline.py"
    done = subprocess.run(
        [str(lm_eval_python()), str(script)],
        input=json.dumps(asked) + "\n",
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return np.array(json.loads(done.stdout))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.guard_head.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--guard", type=Path, default=EMBEDDED_FOLDER, help="folder of the guard (%(default)s)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/guard_head.json"), help="(%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--seed", type=int, default=7, help="of the expansion of our own templates (%(default)s)")
    told = parser.parse_args(arguments)
    texts = load_split(told.data, told.seed)
    guard = MeasuredGuard(told.guard, told.encoder)
    scores = guard.served([each.text for each in texts.test])
    figures = measure(texts.test, scores, baseline_scores(texts), guard.threshold)
    answers = list(xstest_responses(told.data))
    labels = np.array([each.is_unsafe for each in answers])
    answered = guard.served([each.text for each in answers])
    figures |= figures_of("xstest_responses", answered, labels, guard.threshold)
    figures |= hazard_figures(texts.own_test, guard.judge([each.text for each in texts.own_test]), guard.threshold)
    write_result(
        told.json,
        "guard_head",
        figures=figures,
        versions=installed_versions("torch", "transformers", "numpy"),
        notes=[
            "Held-out fifth of development subsets of the public sets, paraphrases kept together: not the full sets.",
            "openai_moderation: a text without a set flag counts as harmless, also where flags are missing.",
            "requests: " + ", ".join(HARMFUL) + " against " + ", ".join(BENIGN) + ".",
            "xstest_responses: all answers of two models; none was trained on.",
            "own_sentences: our own, whole groups held out; how often the most probable hazard is a right one, and how "
            "often a right one reaches the threshold.",
            "*_baseline_auprc: TF-IDF and logistic regression on the same training and held-out texts.",
            "Long texts are judged in windows, as the service judges them.",
            "*_low, *_high: 95 % of 2,000 bootstrap resamples of the rows.",
        ],
    )
    for key, value in figures.items():
        print(f"{key:55} {value:.4g}")


if __name__ == "__main__":
    main()

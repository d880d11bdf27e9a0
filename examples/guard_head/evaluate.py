"""Measure the embedded guard: ``python -m examples.guard_head.evaluate --data DIR --json FILE``.

Runs the engine that serves the guard inside Triton, with the committed head, on public sets that nothing was trained or
chosen on, and the guard's own reading of the answer and threshold.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import installed_versions, write_result
from examples.guard_head import held_out
from examples.guard_head.corpus import load_corpus
from examples.guard_head.held_out import LabelledRow
from examples.guard_head.measures import at_threshold, average_precision
from examples.guard_head.overlap import near_duplicates
from services.inference.engines.seams import EngineMetrics
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.safety.guard import LabelledText
from services.safety.guard_models import embedded_guard
from services.safety.reading import LabelReader

SETS: Final[dict[str, Callable[[Path], list[LabelledRow]]]] = {
    "openai_moderation": held_out.openai_moderation,
    "surge_toxicity": held_out.surge_toxicity,
    "hatecheck": held_out.hatecheck,
    "xstest": held_out.xstest,
    "xstest_responses": held_out.xstest_responses,
    "harmful_requests": held_out.harmful_requests,
    "benign_requests": held_out.benign_requests,
}
_BATCH = 256

Scores = NDArray[np.float64]


class _NoMetrics:
    """Nobody reads the engine's metrics here."""

    def publish(self, values: Mapping[str, float]) -> None:
        """Drop them."""


class MeasuredGuard:
    """The embedded guard without a server: the same engine, head and reading.

    Attributes:
        threshold: the guard's own.
    """

    def __init__(self, encoder: Path | None) -> None:
        model = embedded_guard(encoder, "float32")
        metrics: EngineMetrics = _NoMetrics()
        self._engine = SequenceClassifierEngine.load(model.arguments, metrics)
        self._reader = LabelReader(model.labels, model.file)
        assert model.about.default_threshold is not None, "a classifier's guard file has one"
        self.threshold = model.about.default_threshold

    def unsafe_probabilities(self, texts: Sequence[str]) -> Scores:
        """Return float64 [texts]."""
        scores: list[float] = []
        for start in range(0, len(texts), _BATCH):
            answer = self._engine.classify(texts[start : start + _BATCH])
            rows = zip(answer.probabilities.tolist(), answer.num_tokens, answer.truncated, strict=True)
            scores += [
                self._reader.read(LabelledText(row, int(tokens), bool(cut))).unsafe_probability
                for row, tokens, cut in rows
            ]
        return np.array(scores)


def measure(rows: dict[str, list[LabelledRow]], scores: dict[str, Scores], threshold: float) -> dict[str, float]:
    """Return the flat figures; shares are from 0 to 1."""
    figures: dict[str, float] = {"threshold": threshold}
    for name in ("openai_moderation", "surge_toxicity", "hatecheck", "xstest", "xstest_responses"):
        known = np.array([row.is_unsafe is not None for row in rows[name]])
        labels = np.array([bool(row.is_unsafe) for row in rows[name]])
        figures.update(_binary(name, scores[name][known], labels[known], threshold))
        if not known.all():
            # Others count a missing flag as a clear one; only for comparison with their figures.
            figures[f"{name}_missing_as_safe_auprc"] = average_precision(scores[name], labels)
            figures[f"{name}_rows_unknown"] = int((~known).sum())
    figures["xstest_over_refusal"] = figures["xstest_false_positive_rate"]
    is_safe = np.array([not row.is_unsafe for row in rows["xstest"]])
    benign = np.concatenate([scores["benign_requests"], scores["xstest"][is_safe]])
    harmful = scores["harmful_requests"]
    labels = np.arange(len(harmful) + len(benign)) < len(harmful)
    figures.update(_binary("requests", np.concatenate([harmful, benign]), labels, threshold))
    for name, measured in (("harmful_requests", "recall"), ("benign_requests", "false_positive_rate")):
        for part in sorted({row.part for row in rows[name]}):
            chosen = np.array([row.part == part for row in rows[name]])
            figures[f"{part}_{measured}"] = float((scores[name][chosen] >= threshold).mean())
    return figures


def _binary(name: str, scores: Scores, labels: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    at = at_threshold(scores, labels, threshold)
    return {
        f"{name}_rows": len(labels),
        f"{name}_rows_unsafe": int(labels.sum()),
        f"{name}_auprc": average_precision(scores, labels),
        f"{name}_f1": at.f1,
        f"{name}_precision": at.precision,
        f"{name}_recall": at.recall,
        f"{name}_false_positive_rate": at.false_positive_rate,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m examples.guard_head.evaluate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/guard_head.json"), help="(%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--seed", type=int, default=7, help="of the training texts, to look for near-duplicates")
    told = parser.parse_args(arguments)
    rows = {name: load(told.data) for name, load in SETS.items()}
    guard = MeasuredGuard(told.encoder)
    scores = {name: guard.unsafe_probabilities([row.text for row in each]) for name, each in rows.items()}
    figures = measure(rows, scores, guard.threshold)
    own = [example.text for example in load_corpus(told.seed)]
    held = [row.text for each in rows.values() for row in each]
    figures["held_out_rows_near_training"] = len({row for row, _, _ in near_duplicates(held, own)})
    write_result(
        told.json,
        "guard_head",
        figures=figures,
        versions=installed_versions("torch", "transformers", "numpy"),
        notes=[
            "Development subsets of the public sets: the figures are no measure on the full sets.",
            "openai_moderation: rows without a set flag but with missing ones are not known and left out.",
            "requests: harmbench, advbench, do_not_answer against gsm8k, boolq, commonsenseqa, XSTest's safe prompts.",
            "xstest_over_refusal: share of XSTest's safe prompts that are flagged.",
            "held_out_rows_near_training: word-set Jaccard index of 0.6 or more with a training sentence.",
        ],
    )
    for key, value in figures.items():
        print(f"{key:55} {value:.4g}")


if __name__ == "__main__":
    main()

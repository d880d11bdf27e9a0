"""Train the head of the embedded guard: ``python -m examples.guard_head.train --data DIR``.

The encoder stays frozen; one logistic regression a hazard, and one for "hazardous at all", are fitted on its
embeddings. The penalty and the threshold are chosen by cross-validation inside the training texts; no held-out set is
read here. Writes head.safetensors, head.json and calibration.json.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from examples.guard_head.corpus import HAZARDS, Example, load_corpus, load_tweets
from examples.guard_head.embedding import Embedder
from examples.guard_head.measures import at_threshold, average_precision, best_f1_threshold, calibration_error, log_loss
from examples.guard_head.regression import LinearHead, fit
from services.safety.encoder import find_encoder

ENCODER_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
UNSAFE: Final = "unsafe"
LABELS: Final = (UNSAFE, *HAZARDS)
MAX_TOKENS: Final = 256
GUARD_FOLDER: Final = Path("services/safety/guards/minilm_hazard")
PENALTIES: Final = (3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
_FOLDS: Final = 5
# Our own sentences weigh twice as much as the tweets, and of those the few harmless ones as much as all others.
_SHARES: Final = {"corpus": 2.0, "abusive tweets": 0.5, "harmless tweets": 0.5}

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Embedded training texts.

    Attributes:
        inputs: float32 [texts, hidden size].
        targets: float32 [texts, labels]: 1, 0, or NaN where nobody judged.
        weights: one a text.
        folds: int [texts], which part of the cross-validation a text belongs to.
        is_corpus: bool [texts], whether a text is one of the project's own.
    """

    inputs: Matrix
    targets: Matrix
    weights: NDArray[np.float64]
    folds: NDArray[np.int64]
    is_corpus: NDArray[np.bool_]

    @property
    def is_unsafe(self) -> NDArray[np.bool_]:
        """Whether each text shows any hazard."""
        return np.asarray(self.targets[:, 0] > 0.5)


def assemble(examples: Sequence[Example], inputs: Matrix) -> TrainingSet:
    """Label, weigh and split the texts; a group of paraphrases falls into one fold."""
    targets = np.zeros((len(examples), len(LABELS)), np.float32)
    kinds = np.array([_kind(each) for each in examples])
    for row, example in enumerate(examples):
        targets[row, 0] = bool(example.hazards)
        for column, hazard in enumerate(HAZARDS, start=1):
            targets[row, column] = np.nan if hazard in example.unknown else hazard in example.hazards
    weights = np.zeros(len(examples))
    for kind, share in _SHARES.items():
        chosen = kinds == kind
        weights[chosen] = share / max(1, int(chosen.sum()))
    folds = np.array([int(hashlib.sha256(each.group.encode()).hexdigest(), 16) % _FOLDS for each in examples])
    return TrainingSet(inputs, targets, weights, folds, kinds == "corpus")


def _kind(example: Example) -> str:
    if example.source == "corpus":
        return "corpus"
    return "abusive tweets" if example.hazards else "harmless tweets"


def cross_validate(data: TrainingSet, penalty: float) -> NDArray[np.float64]:
    """Return out-of-fold probabilities, float64 [texts, labels]."""
    predicted = np.zeros(data.targets.shape)
    for fold in range(_FOLDS):
        seen = data.folds != fold
        head = fit(data.inputs[seen], data.targets[seen], data.weights[seen], l2=penalty)
        predicted[~seen] = head.probabilities(data.inputs[~seen])
    return predicted


def unsafe_probability(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what the guard reports: the largest output, so that no category exceeds it."""
    return np.asarray(probabilities.max(axis=1))


def choose_penalty(data: TrainingSet) -> tuple[float, NDArray[np.float64]]:
    """Return the penalty with the lowest out-of-fold log loss on our own sentences, and its predictions."""
    best: tuple[float, float, NDArray[np.float64]] | None = None
    for penalty in PENALTIES:
        predicted = cross_validate(data, penalty)
        loss = log_loss(unsafe_probability(predicted)[data.is_corpus], data.is_unsafe[data.is_corpus])
        print(f"penalty {penalty:g}: out-of-fold log loss {loss:.4f}", flush=True)
        if best is None or loss < best[0]:
            best = (loss, penalty, predicted)
    assert best is not None
    return best[1], best[2]


def describe(data: TrainingSet, predicted: NDArray[np.float64], penalty: float, seed: int) -> dict[str, Any]:
    """Return the content of calibration.json: the threshold, how it came about, and how good the folds were."""
    own = data.is_corpus
    scores, labels = unsafe_probability(predicted), data.is_unsafe
    threshold = best_f1_threshold(scores[own], labels[own])
    at = at_threshold(scores[own], labels[own], threshold)
    return {
        "threshold": threshold,
        "method": f"best F1 of out-of-fold predictions on the project's own sentences, {_FOLDS} folds",
        "seed": seed,
        "l2": penalty,
        "texts": {"corpus": int(own.sum()), "tweets": int((~own).sum()), "hazardous": int(labels.sum())},
        "cross_validation": {
            "corpus_auprc": _rounded(average_precision(scores[own], labels[own])),
            "corpus_auprc_unsafe_output": _rounded(average_precision(predicted[own, 0], labels[own])),
            "corpus_auprc_largest_category": _rounded(average_precision(predicted[own, 1:].max(axis=1), labels[own])),
            "corpus_f1": _rounded(at.f1),
            "corpus_recall": _rounded(at.recall),
            "corpus_false_positive_rate": _rounded(at.false_positive_rate),
            "corpus_calibration_error": _rounded(calibration_error(scores[own], labels[own])),
            "tweets_auprc": _rounded(average_precision(scores[~own], labels[~own])),
            "category_auprc": {
                hazard: _rounded(average_precision(predicted[own, column], data.targets[own, column] > 0.5))
                for column, hazard in enumerate(HAZARDS, start=1)
            },
        },
    }


def write_guard(folder: Path, head: LinearHead, calibration: dict[str, Any]) -> None:
    """Write the three files that the engine and the safety service read."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": head.weight, "bias": head.bias}, folder / "head.safetensors")
    description = {
        "labels": list(LABELS),
        "activation": "sigmoid",
        "max_tokens": MAX_TOKENS,
        "pooling": "mean",
        "normalize": True,
        "encoder_sha256": ENCODER_SHA256,
    }
    for name, content in (("head.json", description), ("calibration.json", calibration)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and write the head."""
    parser = argparse.ArgumentParser(prog="python -m examples.guard_head.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, default=GUARD_FOLDER, help="where the head goes (%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--cache", type=Path, default=Path(".cache/guard_head"), help="embeddings go here")
    parser.add_argument("--seed", type=int, default=7, help="of the expansion of the templates (%(default)s)")
    told = parser.parse_args(arguments)
    examples = [*load_corpus(told.seed), *load_tweets(told.data)]
    encoder = find_encoder(told.encoder, ENCODER_SHA256)
    print(f"embedding {len(examples)} texts with {encoder}", flush=True)
    inputs = Embedder(encoder, max_tokens=MAX_TOKENS, cache=told.cache).embed([each.text for each in examples])
    data = assemble(examples, inputs)
    penalty, predicted = choose_penalty(data)
    calibration = describe(data, predicted, penalty, told.seed)
    write_guard(told.out, fit(data.inputs, data.targets, data.weights, l2=penalty), calibration)
    print(json.dumps(calibration, indent=2))


def _rounded(value: float) -> float:
    return round(value, 4)


if __name__ == "__main__":
    main()

"""Tune the embedded guard: ``python -m examples.guard_head.train --data DIR``.

The public encoder is tuned through a LoRA adapter, together with one output a hazard and one for "hazardous at all", on
labelled public sets and on sentences written for this project. A fifth of the public texts is held out for
``examples.guard_head.evaluate`` and a tenth for choosing the threshold. Writes adapter_model.safetensors,
adapter_config.json, head.safetensors, head.json and calibration.json. About a quarter of an hour on two cores.
"""

import argparse
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from examples.guard_head.corpus import load_corpus, load_tweets
from examples.guard_head.lessons import LABELS, lessons_of
from examples.guard_head.measures import at_threshold, average_precision, calibration_error, calm_threshold
from examples.guard_head.public_sets import load_public
from examples.guard_head.scoring import MeasuredGuard
from examples.guard_head.splitting import Split, split
from services.distillation.tuning import Recipe, tune
from services.safety.encoder import find_encoder
from services.safety.guard_models import EMBEDDED_FOLDER, GUARD_FILE

ENCODER_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS: Final = 256
# Our own sentences are many variations of few acts, and the tweets are much alike.
DRAWN: Final = {"corpus": 0.4, "tweets": 0.3}
_REPORT_STEPS: Final = 50
_F1_SLACK: Final = 0.001


def load_split(data: Path, seed: int) -> Split:
    """Return all labelled texts by what they are for.

    Args:
        data: folder of the public sets.
        seed: of the expansion of our own templates.
    """
    return split(load_public(data), [*load_corpus(seed), *load_tweets(data)])


def write_guard(folder: Path, calibration: dict[str, Any]) -> None:
    """Write what describes the tuned weights beside them."""
    description = {
        "labels": list(LABELS),
        "activation": "sigmoid",
        "pooling": "mean",
        "normalize": True,
        "max_tokens": MAX_TOKENS,
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "encoder_sha256": ENCODER_SHA256,
    }
    for name, content in (("head.json", description), ("calibration.json", calibration)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def calibrate(guard: MeasuredGuard, texts: Split, recipe: Recipe) -> dict[str, Any]:
    """Return the content of calibration.json: the threshold, how it came about, and how good the guard was there."""
    scores = guard.unsafe_probabilities([each.text for each in texts.validation])
    labels = np.array([each.is_unsafe for each in texts.validation])
    threshold = calm_threshold(scores, labels, _F1_SLACK)
    at = at_threshold(scores, labels, threshold)
    return {
        "threshold": threshold,
        "method": f"highest with an F1 within {_F1_SLACK} of the best, on a tenth of the public texts, not tuned on",
        "recipe": {**asdict(recipe), "drawn": DRAWN},
        "texts": {
            "training": dict(sorted(Counter(each.source for each in texts.training).items())),
            "validation": len(texts.validation),
            "test": len(texts.test),
        },
        "validation": {
            "auprc": round(average_precision(scores, labels), 4),
            "f1": round(at.f1, 4),
            "recall": round(at.recall, 4),
            "false_positive_rate": round(at.false_positive_rate, 4),
            "calibration_error": round(calibration_error(scores, labels), 4),
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Tune and write the guard."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.guard_head.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Recipe()
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--out", type=Path, default=EMBEDDED_FOLDER, help="where the guard goes (%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="passes over the texts (%(default)s)")
    parser.add_argument("--rank", type=int, default=usual.rank, help="of the adapter (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate, help="highest (%(default)s)")
    parser.add_argument("--seed", type=int, default=usual.seed, help="(%(default)s)")
    told = parser.parse_args(arguments)
    recipe = Recipe(
        rank=told.rank,
        alpha=2 * told.rank,
        epochs=told.epochs,
        learning_rate=told.learning_rate,
        seed=told.seed,
    )
    texts = load_split(told.data, told.seed)
    encoder = find_encoder(told.encoder, ENCODER_SHA256)
    print(f"tuning on {len(texts.training)} texts; {len(texts.test)} are held out", flush=True)
    guard = tune(encoder, lessons_of(texts.training, DRAWN), recipe, report=_Progress())
    guard.save(told.out)
    if not (told.out / GUARD_FILE).is_file():
        shutil.copy(EMBEDDED_FOLDER / GUARD_FILE, told.out)
    write_guard(told.out, {"threshold": 0.5})
    calibration = calibrate(MeasuredGuard(told.out, encoder), texts, recipe)
    write_guard(told.out, calibration)
    print(json.dumps(calibration, indent=2))


class _Progress:
    """Prints the loss now and then, with the time that is left."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._losses: list[float] = []

    def __call__(self, step: int, steps: int, loss: float) -> None:
        self._losses.append(loss)
        if step % _REPORT_STEPS == 0 or step == steps:
            left = (time.monotonic() - self._started) / step * (steps - step)
            mean = sum(self._losses) / len(self._losses)
            print(f"step {step} of {steps}: loss {mean:.4f}, {left / 60:.1f} min left", flush=True)
            self._losses.clear()


if __name__ == "__main__":
    main()

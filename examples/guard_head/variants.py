"""Measure what computes the guard fastest, and at what loss: ``python -m examples.guard_head.variants --data DIR``.

Every variant judges the held-out public texts, long ones in windows as the service does. One whose area under the
precision-recall curve falls by no more than the bound on any set, against PyTorch in float32, is promoted:
variants.json beside the weights then names it, and the safety service runs it when EVALFLEET_GUARD_VARIANT says so.
Needs the packages of the extra ``guards``.
"""

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np

from examples.guard_head.corpus import Example, load_corpus
from examples.guard_head.evaluate import SETS, Scores
from examples.guard_head.measures import average_precision
from examples.guard_head.scoring import MeasuredGuard
from examples.guard_head.train import load_split
from services.inference.contract import SAMPLES_FILE, VariantName
from services.inference.failures import InferenceFailure
from services.safety.guard_models import EMBEDDED_FOLDER
from services.safety.variants import VARIANTS_FILE

_SAMPLES: Final = 256


def losses(test: Sequence[Example], scores: Scores, reference: Scores) -> dict[str, float]:
    """Return by how much each set's AUPRC is below the reference's; negative where it is better."""
    labels = np.array([each.is_unsafe for each in test])
    found = {}
    for name, sources in SETS.items():
        rows = np.array([each.source in sources for each in test])
        found[name] = average_precision(reference[rows], labels[rows]) - average_precision(scores[rows], labels[rows])
    return found


def write_samples(folder: Path, seed: int) -> None:
    """Write texts of our own from which 8-bit ranges are taken; the public ones may not be passed on."""
    texts = sorted({each.text.replace("\n", " ") for each in load_corpus(seed)})
    chosen = random.Random(seed).sample(texts, _SAMPLES)
    (folder / SAMPLES_FILE).write_text("\n".join(chosen) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all variants, print what was found, and write which are promoted."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.guard_head.variants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--guard", type=Path, default=EMBEDDED_FOLDER, help="folder of the guard (%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--bound", type=float, default=0.005, help="largest loss of AUPRC on any set (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the expansion of our own templates (%(default)s)")
    told = parser.parse_args(arguments)
    test = load_split(told.data, told.seed).test
    write_samples(told.guard, told.seed)
    reference: Scores | None = None
    promoted: dict[str, Mapping[str, float]] = {}
    digest = ""
    for variant in get_args(VariantName):
        try:
            guard = MeasuredGuard(told.guard, told.encoder, variant)
        except InferenceFailure as failure:
            print(f"{variant:18} {failure.message}", flush=True)
            continue
        began = time.perf_counter()
        scores = guard.served([each.text for each in test])
        seconds = time.perf_counter() - began
        if reference is None:
            reference, digest = scores, guard.weights_digest
        lost = losses(test, scores, reference)
        largest = max(lost.values())
        is_promoted = largest <= told.bound
        print(
            f"{variant:18} {len(test) / seconds:8.1f} texts/s, largest loss of AUPRC {largest:+.4f} "
            f"({max(lost, key=lambda name: lost[name])}), largest difference of a probability "
            f"{np.abs(scores - reference).max():.4f}: {'promoted' if is_promoted else 'not promoted'}",
            flush=True,
        )
        if is_promoted and variant != "torch":
            promoted[variant] = {name: round(value, 5) for name, value in lost.items()}
    content = {"weights_digest": digest, "bound": told.bound, "promoted": promoted}
    (told.guard / VARIANTS_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Choose how windows of long texts count: ``python -m examples.guard_head.long_texts --data DIR``.

What the first window of a long text leaves out or hides should be found where it is hazardous, and should not spoil how
texts are ranked. Both are measured on texts that nothing is reported on: those that the guard was tuned on and those of
the threshold. None of the held-out ones is looked at.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Final, get_args

import numpy as np

from benchmarks.report import installed_versions, write_result
from examples.guard_head.corpus import Example
from examples.guard_head.evaluate import BENIGN, HARMFUL
from examples.guard_head.measures import at_threshold, average_precision
from examples.guard_head.scoring import MeasuredGuard, Scores
from examples.guard_head.splitting import Split
from examples.guard_head.train import load_split
from services.inference.contract import VariantName
from services.safety.guard_file import LaterWindows, read_guard_file
from services.safety.guard_models import EMBEDDED_FOLDER, GUARD_FILE

_MARGINS: Final = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
_WEIGHTS: Final = (1.0, 0.5, 0.25, 0.1)
_CARRIERS: Final = 48
_CARRIER_CHARACTERS: Final = (1_600, 3_600, 6_400)
_CERTAIN: Final = 0.9
_REPEATED: Final = (1, 4)


@dataclass(frozen=True, slots=True)
class LongTexts:
    """Texts that are longer than the guard reads at once, as the probabilities of their windows.

    Attributes:
        public: of the sets, with their labels.
        labels: of these.
        harmless: made of many harmless requests.
        hidden: the same with a hazardous request at three quarters or at the end, by how often it stands there.
    """

    public: list[Scores]
    labels: np.ndarray[tuple[int], np.dtype[np.bool_]]
    harmless: list[Scores]
    hidden: dict[int, list[Scores]]


def combined(windows: Sequence[Scores], bar: LaterWindows, threshold: float) -> Scores:
    """Return what the service says of each text at a threshold."""
    return np.array([max(each[0], *(bar.weighed(value, threshold) for value in each[1:]), 0.0) for each in windows])


def made_texts(texts: Split, guard: MeasuredGuard, seed: int) -> tuple[list[str], dict[int, list[str]]]:
    """Return harmless long texts, and each again with a request that is flagged when it stands alone."""
    chance = random.Random(seed)
    asked = [each.text for each in texts.validation if each.source in BENIGN]
    hazards = [each.text for each in texts.validation if each.source in HARMFUL]
    alone = guard.unsafe_probabilities(hazards)
    certain = [text for text, score in zip(hazards, alone, strict=True) if score >= _CERTAIN]
    harmless, hidden = [], dict[int, list[str]]((count, []) for count in _REPEATED)
    for number in range(_CARRIERS):
        parts: list[str] = []
        while sum(map(len, parts)) < _CARRIER_CHARACTERS[number % len(_CARRIER_CHARACTERS)]:
            parts.append(chance.choice(asked))
        harmless.append(" ".join(parts))
        for count, at in product(_REPEATED, (len(parts) * 3 // 4, len(parts))):
            hidden[count].append(" ".join([*parts[:at], *[chance.choice(certain)] * count, *parts[at:]]))
    return harmless, hidden


def read_long_texts(texts: Split, guard: MeasuredGuard, most: int, seed: int) -> LongTexts:
    """Let the guard read all of them."""
    public: list[Example] = [each for each in (*texts.training, *texts.validation) if len(each.text) > guard.max_tokens]
    read = [
        (each, windows)
        for each, windows in zip(public, guard.windows([each.text for each in public], most), strict=True)
        if len(windows) > 1
    ]
    harmless, hidden = made_texts(texts, guard, seed)
    return LongTexts(
        [windows for _, windows in read],
        np.array([each.is_unsafe for each, _ in read]),
        guard.windows(harmless, most),
        {count: guard.windows(made, most) for count, made in hidden.items()},
    )


def figures_of(long: LongTexts, bar: LaterWindows, threshold: float) -> dict[str, float]:
    """Return how texts are ranked, and what is flagged at the threshold."""
    scores = combined(long.public, bar, threshold)
    at = at_threshold(scores, long.labels, threshold)
    first = np.array([each[0] for each in long.public])
    return {
        "auprc_loss": average_precision(first, long.labels) - average_precision(scores, long.labels),
        "unsafe_flagged": at.recall,
        "harmless_flagged": at.false_positive_rate,
        "made_harmless_flagged": float((combined(long.harmless, bar, threshold) >= threshold).mean()),
        **{
            f"hidden_{count}_flagged": float((combined(made, bar, threshold) >= threshold).mean())
            for count, made in long.hidden.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every bar, print what it does, and write it."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.guard_head.long_texts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the public data sets")
    parser.add_argument("--guard", type=Path, default=EMBEDDED_FOLDER, help="folder of the guard (%(default)s)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/long_texts.json"), help="(%(default)s)")
    parser.add_argument("--encoder", type=Path, help="encoder folder; default: the offline package, then the hub")
    parser.add_argument("--variant", choices=get_args(VariantName), default="torch", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of our own templates and the made texts (%(default)s)")
    told = parser.parse_args(arguments)
    file = read_guard_file(told.guard / GUARD_FILE)
    guard = MeasuredGuard(told.guard, told.encoder, told.variant)
    long = read_long_texts(load_split(told.data, told.seed), guard, file.max_windows, told.seed)
    figures: dict[str, float] = {"public": len(long.labels), "public_unsafe": int(long.labels.sum())}
    for weight, margin in product(_WEIGHTS, _MARGINS):
        found = figures_of(long, LaterWindows(margin=margin, weight=weight), guard.threshold)
        print(f"margin {margin} weight {weight}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        figures |= {f"margin_{margin}_weight_{weight}_{name}": value for name, value in found.items()}
    write_result(
        told.json,
        "long_texts",
        figures=figures,
        versions=installed_versions("torch", "transformers", "numpy"),
        notes=[
            f"Windows of {file.window_tokens} tokens after the first, the longest; none of the held-out texts; "
            f"computed by {told.variant}.",
            "public: texts of the training and validation sets that are longer than the first window.",
            "auprc_loss: of these, against the first window alone.",
            f"made: {_CARRIERS} texts of harmless validation requests; hidden_N: with a hazardous one of probability "
            f"{_CERTAIN} or more N times, at three quarters and at the end.",
        ],
    )


if __name__ == "__main__":
    main()

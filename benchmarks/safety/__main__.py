"""Compare the safety service with what people use today to classify text, on the same rows and cores.

Ours is the embedded guard behind gRPC, the safety service and the real Triton, in each variant that is promoted. The
peers run in a process of their own: transformers' text-classification pipeline with the very same model, text by text
and at the batch size that a trial finds best, and sentence-transformers with scikit-learn's logistic regression. The
sides take turns; no verdict comes from a cache.
"""

import argparse
import asyncio
import os
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.peers import ROOT
from benchmarks.peers.text_harness import Classified, TextClassifierPeer
from benchmarks.report import installed_versions, write_result
from benchmarks.safety.model import save_merged
from benchmarks.safety.ours import OurSafety, our_safety
from examples.guard_head.corpus import Example
from examples.guard_head.evaluate import SETS
from examples.guard_head.measures import at_threshold, average_precision
from examples.guard_head.splitting import Split
from examples.guard_head.train import load_split
from services.inference.contract import VariantName
from services.safety.errors import GuardFileError
from services.safety.guard_models import EMBEDDED_FOLDER, embedded_guard
from services.safety.variants import check_promoted

PIPELINE, PIPELINE_1, EMBEDDINGS = "pipeline_best_batch", "pipeline_batch_1", "sentence_transformers"
_OURS = "ours_"
_BATCH_SIZES = (1, 4, 8, 16, 32, 64)
_TRIAL_TEXTS = 256
_SINGLE_TEXTS = 200
_LOADED_TEXTS = 800
_MOST_OVERHEAD_ROUNDS = 2
# Of the median length, in characters: texts of about one cost, whose waiting is not that of a page before a line.
_ALIKE = (0.75, 1.25)
_LOAD = 0.7
_IDLE_SECONDS = 0.5
_IN_FLIGHT = 2
# Embedding all training texts one by one would take longer than the whole comparison.
_FITTED_TEXTS = 4000


@dataclass(frozen=True, slots=True)
class Measured:
    """What all sides made of the texts.

    Attributes:
        figures: of speed.
        scores: largest probability of a hazard, by side, in the order of the texts.
        best_batch_size: of the pipeline.
    """

    figures: dict[str, float]
    scores: dict[str, list[float]]
    best_batch_size: int


def ours_name(variant: VariantName) -> str:
    """Return the beginning of the names of a variant's figures."""
    return _OURS + variant.replace("-", "_")


def variants() -> list[VariantName]:
    """Return PyTorch and what is promoted beside the embedded guard."""
    found: list[VariantName] = []
    digest = embedded_guard(None, "float32").about.reference.weights_digest
    for variant in get_args(VariantName):
        try:
            check_promoted(EMBEDDED_FOLDER, variant, digest)
        except GuardFileError as error:
            print(f"{variant} is left out: {error.message}")
        else:
            found.append(variant)
    return found


def quality(name: str, test: Sequence[Example], scores: Sequence[float], threshold: float) -> dict[str, float]:
    """Return the AUPRC and F1 of each set."""
    labels, values = np.array([each.is_unsafe for each in test]), np.array(scores)
    figures = {}
    for one, sources in SETS.items():
        rows = np.array([each.source in sources for each in test])
        figures[f"{name}_{one}_auprc"] = average_precision(values[rows], labels[rows])
        figures[f"{name}_{one}_f1"] = at_threshold(values[rows], labels[rows], threshold).f1
    return figures


def speed(name: str, rounds: Sequence[Classified]) -> dict[str, float]:
    """Return the medians of the rounds."""
    count = len(rounds[0].scores)
    return {
        f"{name}_items_per_second": count / statistics.median(each.seconds for each in rounds),
        f"{name}_cpu_seconds_per_item": statistics.median(each.cpu_seconds for each in rounds) / count,
    }


async def under_load(name: str, ours: OurSafety, asked: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the share of the service's own work, and the latency of unary calls at most of what it can take."""
    overheads = [await _overhead(ours, asked) for _ in range(min(rounds, _MOST_OVERHEAD_ROUNDS))]
    figures = {f"{name}_service_overhead_share": statistics.median(overheads)}
    for kind, texts in (("", list(asked)), ("alike_", alike(asked))):
        # The same texts alone and under load: what a latency is compared with must not be other texts'.
        chosen = random.Random(7).sample(texts, min(_SINGLE_TEXTS, len(texts)))
        single = await ours.classify_one_by_one(chosen)
        rate = _LOAD * await ours.capacity(chosen, in_flight=8)
        loaded = (chosen * (_LOADED_TEXTS // len(chosen) + 1))[:_LOADED_TEXTS]
        latencies = await ours.classify_at(loaded, calls_per_second=rate, seed=7)
        alone = (single.latencies * (_LOADED_TEXTS // len(chosen) + 1))[:_LOADED_TEXTS]
        figures |= {
            f"{name}_{kind}unloaded_p50_seconds": float(np.percentile(single.latencies, 50)),
            f"{name}_{kind}unloaded_p99_seconds": float(np.percentile(single.latencies, 99)),
            f"{name}_{kind}loaded_calls_per_second": rate,
            f"{name}_{kind}loaded_p50_seconds": float(np.percentile(latencies, 50)),
            f"{name}_{kind}loaded_p99_seconds": float(np.percentile(latencies, 99)),
            f"{name}_{kind}p99_slowdown": float(np.percentile(np.array(latencies) / np.array(alone), 99)),
            f"{name}_{kind}queue_p99_seconds": float(np.percentile(queued(alone, rate / _LOAD, rate, seed=7), 99)),
        }
    return figures


def queued(alone: Sequence[float], capacity: float, rate: float, seed: int) -> list[float]:
    """Return the latencies of a queue that loses nothing: first come, first served, at the measured capacity.

    Texts take times in proportion to those they take alone, so many of them a second as the service answers when it is
    never idle; calls come at the same random times as the service's did. What they wait there is what the load itself
    costs, whoever serves them.

    Args:
        alone: seconds of each call by itself, in the order of arrival.
        capacity: calls a second of a server that is never idle.
        rate: calls a second that arrive.
        seed: of the arrivals.
    """
    chance, scale = random.Random(seed), len(alone) / capacity / sum(alone)
    now = free = 0.0
    latencies = []
    for seconds in alone:
        now += chance.expovariate(rate)
        free = max(free, now) + seconds * scale
        latencies.append(free - now)
    return latencies


def alike(texts: Sequence[str]) -> list[str]:
    """Return the texts of about the median length."""
    middle = statistics.median(map(len, texts))
    return [text for text in texts if _ALIKE[0] * middle <= len(text) <= _ALIKE[1] * middle]


async def _overhead(ours: OurSafety, texts: Sequence[str]) -> float:
    """Return what one call after the other takes beyond the engine's own time, as a share of that."""
    before = ours.engine_seconds()
    found = await ours.classify(texts, in_flight=1)
    # The engine tells its time when it falls idle, a moment after its last answer.
    await asyncio.sleep(_IDLE_SECONDS)
    computed = ours.engine_seconds() - before
    return (found.seconds - computed) / computed


async def measure(texts: Split, encoder: Path, rounds: int, chosen: Sequence[VariantName]) -> Measured:
    """Ask all sides in turn, round by round."""
    asked = [each.text for each in texts.test]
    found: dict[str, list[Classified]] = {}
    single: dict[str, Classified] = {}
    figures: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="evalfleet-bench-")))
        save_merged(encoder, EMBEDDED_FOLDER, folder)
        pipeline = stack.enter_context(TextClassifierPeer("pipeline", folder))
        trial = {size: pipeline.classify(asked[:_TRIAL_TEXTS], batch_size=size).seconds for size in _BATCH_SIZES}
        best = min(trial, key=lambda size: trial[size])
        embeddings = stack.enter_context(TextClassifierPeer("sentence_transformers", encoder))
        fitted = random.Random(7).sample(texts.training, min(_FITTED_TEXTS, len(texts.training)))
        embeddings.fit([(each.text, int(each.is_unsafe)) for each in fitted])
        fleets = {each: await stack.enter_async_context(our_safety(each)) for each in chosen}
        peers = ((PIPELINE_1, pipeline, 1), (PIPELINE, pipeline, best), (EMBEDDINGS, embeddings, 32))
        for number in range(rounds):
            for name, peer, size in peers:
                found.setdefault(name, []).append(peer.classify(asked, batch_size=size))
            for variant, ours in fleets.items():
                found.setdefault(ours_name(variant), []).append(await ours.classify(asked, in_flight=_IN_FLIGHT))
            print(
                f"round {number + 1}: " + ", ".join(f"{side} {each[-1].seconds:.2f} s" for side, each in found.items())
            )
        for name, peer in ((PIPELINE_1, pipeline), (EMBEDDINGS, embeddings)):
            single[name] = peer.classify_one_by_one(asked[:_SINGLE_TEXTS])
        for variant, ours in fleets.items():
            figures |= await under_load(ours_name(variant), ours, asked, rounds)
    for name, answers in found.items():
        figures |= speed(name, answers)
    for name, answer in single.items():
        figures[f"{name}_single_p50_seconds"] = float(np.percentile(answer.latencies, 50))
        figures[f"{name}_single_p99_seconds"] = float(np.percentile(answer.latencies, 99))
    return Measured(figures, {name: answers[0].scores for name, answers in found.items()}, best)


def compared(figures: Mapping[str, float], chosen: str) -> dict[str, float]:
    """Return the figures by which the service is judged, of its fastest variant."""
    rate = figures[f"{PIPELINE}_items_per_second"]

    def slower(kind: str) -> float:
        return figures[f"{chosen}_{kind}loaded_p99_seconds"] / figures[f"{chosen}_{kind}unloaded_p50_seconds"]

    def spread(kind: str) -> float:
        return figures[f"{chosen}_{kind}unloaded_p99_seconds"] / figures[f"{chosen}_{kind}unloaded_p50_seconds"]

    def queue(kind: str) -> float:
        return figures[f"{chosen}_{kind}queue_p99_seconds"] / figures[f"{chosen}_{kind}unloaded_p50_seconds"]

    def loss(than: str, of: str = chosen) -> float:
        return max(figures[f"{than}_{one}_auprc"] - figures[f"{of}_{one}_auprc"] for one in SETS)

    return {
        "throughput_ratio_best_pipeline": figures[f"{chosen}_items_per_second"] / rate,
        "auprc_loss": loss(PIPELINE),
        "auprc_loss_of_windows": loss(PIPELINE, of=ours_name("torch")),
        "auprc_loss_of_variant": loss(ours_name("torch")),
        "service_overhead_share": figures[f"{chosen}_service_overhead_share"],
        "p99_over_unloaded_p50": slower(""),
        "p99_over_unloaded_p50_alike": slower("alike_"),
        "unloaded_p99_over_p50": spread(""),
        "unloaded_p99_over_p50_alike": spread("alike_"),
        "queue_p99_over_unloaded_p50": queue(""),
        "queue_p99_over_unloaded_p50_alike": queue("alike_"),
        "p99_slowdown": figures[f"{chosen}_p99_slowdown"],
        "p99_slowdown_alike": figures[f"{chosen}_alike_p99_slowdown"],
        "items_per_second": figures[f"{chosen}_items_per_second"],
    }


def main() -> None:
    """Read the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.safety", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/safety.json")
    parser.add_argument("--data", type=Path, default=None, help="folder of the public data sets")
    parser.add_argument("--rounds", type=int, default=5, help="(default 5)")
    arguments = parser.parse_args()
    data = arguments.data or Path(os.environ.get("EVALFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        parser.error(f"there is no folder {data}; name the folder of the public data sets with --data")
    texts = load_split(data, 7)
    model = embedded_guard(None, "float32")
    threshold = model.about.default_threshold
    assert threshold is not None
    found = asyncio.run(measure(texts, Path(model.arguments.model), arguments.rounds, variants()))
    figures = dict(found.figures)
    for name, scores in found.scores.items():
        figures |= quality(name, texts.test, scores, threshold)
    ours = [name for name in found.scores if name.startswith(_OURS)]
    chosen = max(ours, key=lambda name: figures[f"{name}_items_per_second"])
    figures |= compared(figures, chosen)
    for name, value in sorted(figures.items()):
        print(f"{name:70} {value:.5g}")
    write_result(
        arguments.json,
        arguments.json.stem,
        figures=figures,
        versions=installed_versions("torch", "transformers", "grpcio", "onnxruntime", "openvino"),
        notes=[
            f"{len(texts.test)} texts that the guard was not tuned on; {arguments.rounds} rounds",
            f"best batch size of the pipeline, of {_BATCH_SIZES}: {found.best_batch_size}",
            f"ours: batches of 256, {_IN_FLIGHT} calls in flight, verdict cache off; the fastest promoted variant: "
            f"{chosen}",
            f"sentence_transformers: logistic regression on {_FITTED_TEXTS} of the training texts",
            "service_overhead_share: batches of 256 one after the other, wall clock beyond the engine's time over that",
            f"loaded: unary calls at random times at {_LOAD:.0%} of what 8 in flight reach; unloaded: one by one; "
            f"alike: with texts of {_ALIKE[0]} to {_ALIKE[1]} of the median length alone",
            "unloaded_p99_over_p50: no load at all, the floor of p99_over_unloaded_p50, since texts differ in length; "
            "p99_slowdown: of each call's latency over that of the same text alone",
            "queue_p99_over_unloaded_p50: of a queue that serves first come, first served, loses nothing, and has the "
            "measured capacity: what calls at random times wait at this load, whoever serves them",
            "auprc_loss: against the pipeline, which reads the first 256 tokens where the service reads all; "
            "auprc_loss_of_windows: the service's float32 against the pipeline; auprc_loss_of_variant: against the "
            "service's own float32; each the largest of any set, so that they need not add up",
        ],
    )


if __name__ == "__main__":
    main()

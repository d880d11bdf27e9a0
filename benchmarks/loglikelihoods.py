"""Log-likelihoods and accuracies of multiple-choice tasks beside lm-evaluation-harness's HF model.

Both get the same checkpoint, the same rendered contexts and continuations and the same cores, in alternating rounds.
Ours answers through gRPC, the generation service and the real Triton.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc

from benchmarks.peers import LM_EVAL, ROOT
from benchmarks.peers.harness import LmEval
from benchmarks.report import installed_versions, write_result
from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Item, MultipleChoice, PlainPrompt
from services.evaluation.loading import load_task, present_tasks
from services.standalone.testing import RunningFleet

TASKS = ("mmlu", "hellaswag", "arc_challenge", "truthfulqa_mc1", "boolq", "winogrande", "piqa")
CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice item and where it is from."""

    task: str
    choices: MultipleChoice

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(context, continuation) of each choice."""
        return [(_text(choice.context), choice.continuation) for choice in self.choices.choices]


@dataclass(frozen=True, slots=True)
class Round:
    """Scores of all pairs in their order, and how long they took."""

    seconds: float
    scores: list[tuple[float, bool]]


def questions(data_folders: Sequence[Path], rows: int) -> list[Question]:
    """The first ``rows`` questions of each task in its seeded order."""
    catalog = Catalog.load()
    roots = DataRoots(tuple(data_folders))
    found = []
    for name in TASKS:
        tasks, _ = present_tasks(catalog.suite(name).tasks, roots)
        for task in tasks:
            loaded = load_task(task, roots)
            for index in loaded.draw_order(seed=0, limit=max(1, rows // len(tasks))):
                item = loaded.item(index)
                if isinstance(item, Item) and item.multiple_choice is not None:
                    found.append(Question(name, item.multiple_choice))
    return found


class Ours:
    """EvalFleet's generation service."""

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        self._stub = generation_pb2_grpc.GenerationServiceStub(channel)
        self._model = model

    async def score(self, asked: Sequence[Question]) -> Round:
        """Score all questions, one request for each distinct context."""
        places = asyncio.Semaphore(CONCURRENCY)
        began = time.perf_counter()
        scored = await asyncio.gather(*(self._question(question, places) for question in asked))
        return Round(time.perf_counter() - began, [pair for question in scored for pair in question])

    async def _question(self, question: Question, places: asyncio.Semaphore) -> list[tuple[float, bool]]:
        result = [(0.0, False)] * len(question.choices.choices)
        for group in question.choices.groups():
            request = generation_pb2.ScoreContinuationsRequest(
                model=self._model,
                prompt=_text(group.context),
                continuations=group.continuations,
                truncation=generation_pb2.TRUNCATION_POLICY_LEFT,
            )
            async with places:
                response = await self._stub.ScoreContinuations(request, timeout=600)
            for index, score in zip(group.choice_indices, response.scores, strict=True):
                result[index] = (score.log_likelihood, score.is_greedy)
        return result


@asynccontextmanager
async def our_fleet(checkpoint: Path) -> AsyncIterator[Ours]:
    """A whole fleet with the checkpoint registered."""
    async with RunningFleet(checkpoint_roots=[checkpoint.parent]) as running:
        with Fleet.connect(running.endpoints) as fleet:
            model = await asyncio.to_thread(fleet.models.add, checkpoint)
        async with grpc.aio.insecure_channel(running.endpoints["generation"]) as channel:
            yield Ours(channel, model.name)


def accuracies(asked: Sequence[Question], scores: Sequence[tuple[float, bool]]) -> dict[str, list[float]]:
    """Acc of each question by task; the first of equally likely choices counts, as in lm-evaluation-harness."""
    found: dict[str, list[float]] = {}
    position = 0
    for question in asked:
        values = [value for value, _ in scores[position : position + len(question.choices.choices)]]
        position += len(values)
        right = values.index(max(values)) in question.choices.gold_indices
        found.setdefault(question.task, []).append(float(right))
    return found


def _text(prompt: Any) -> str:
    if not isinstance(prompt, PlainPrompt):
        raise SystemExit("this benchmark compares plain prompts; the task renders a chat")
    return prompt.text


async def compare(arguments: argparse.Namespace) -> None:
    """Run the rounds and write the result."""
    asked = questions(arguments.data, arguments.rows)
    pairs = [pair for question in asked for pair in question.pairs]
    peer = LmEval("hf", arguments.checkpoint, batch_size=arguments.batch_size)
    theirs: list[Round] = []
    ours: list[Round] = []
    try:
        async with our_fleet(arguments.checkpoint) as fleet:
            for number in range(arguments.rounds):
                scored = await asyncio.to_thread(peer.loglikelihood, pairs)
                theirs.append(Round(scored.seconds, scored.scores))
                ours.append(await fleet.score(asked))
                print(f"round {number + 1}: peer {theirs[-1].seconds:.1f} s, ours {ours[-1].seconds:.1f} s")
    finally:
        peer.close()
    figures = _figures(asked, theirs, ours)
    for name, value in figures.items():
        print(f"{name:45} {value:.6g}")
    write_result(
        arguments.json,
        "loglikelihoods",
        figures=figures,
        versions={**installed_versions("torch", "transformers", "grpcio"), "lm-eval": LM_EVAL[0].partition("==")[2]},
        notes=[
            f"{len(asked)} questions, {len(pairs)} continuations, checkpoint {arguments.checkpoint.name}, fp32",
            f"peer: HFLM, batch size {arguments.batch_size}; ours: {CONCURRENCY} requests in flight, gRPC and Triton",
            "*_acc_difference is ours minus the peer's; rates come from alternating rounds, the ratio is their median",
        ],
    )


def _figures(asked: Sequence[Question], theirs: Sequence[Round], ours: Sequence[Round]) -> dict[str, float]:
    differences = [abs(a[0] - b[0]) for a, b in zip(theirs[0].scores, ours[0].scores, strict=True)]
    greedy = [a[1] == b[1] for a, b in zip(theirs[0].scores, ours[0].scores, strict=True)]
    peer_accuracy = accuracies(asked, theirs[0].scores)
    our_accuracy = accuracies(asked, ours[0].scores)
    figures = {
        "questions": float(len(asked)),
        "continuations": float(len(differences)),
        "largest_loglikelihood_difference": max(differences),
        "greedy_flags_equal_share": statistics.mean(greedy),
    }
    for task, values in peer_accuracy.items():
        figures[f"{task}_acc_peer"] = statistics.mean(values)
        figures[f"{task}_acc_ours"] = statistics.mean(our_accuracy[task])
        figures[f"{task}_acc_difference"] = statistics.mean(our_accuracy[task]) - statistics.mean(values)
    speeds = [peer.seconds / our.seconds for peer, our in zip(theirs, ours, strict=True)]
    figures["questions_per_second_ratio"] = statistics.median(speeds)
    figures["questions_per_second_ours"] = len(asked) / statistics.median(each.seconds for each in ours)
    return figures


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/loglikelihoods.json")
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the tiny policy's last checkpoint")
    parser.add_argument("--data", type=Path, action="append", help="folder of benchmark rows; may be repeated")
    parser.add_argument("--rows", type=int, default=40, help="questions a task (default 40)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (default 3)")
    parser.add_argument("--batch-size", type=int, default=16, help="the peer's batch size (default 16)")
    arguments = parser.parse_args()
    arguments.data = arguments.data or [Path(os.environ.get("EVALFLEET_DATA_DIR", ROOT.parent / "shared" / "data"))]
    if arguments.checkpoint is None:
        steps = sorted((ROOT / ".cache" / "tiny_policy").glob("step-*"))
        if not steps:
            parser.error("no checkpoint: run `make demo` once, or give --checkpoint")
        arguments.checkpoint = steps[-1]
    asyncio.run(compare(arguments))


if __name__ == "__main__":
    main()

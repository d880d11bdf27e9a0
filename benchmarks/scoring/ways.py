"""What it costs evaluation to have an item scored in a batch, in a stream, and in a call of its own.

Client and service share one process, whose CPU time is what counts. The quick scorer is exact_match, the other one
answers at once but is asked as those are that take long. docs/decisions/0018 quotes the figures.

    python -m benchmarks.scoring.ways [--items 4000] [--rounds 3]
"""

import argparse
import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import structlog
from evalfleet.scoring.v1 import scoring_pb2, scoring_pb2_grpc

from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.remote_scoring import RemoteScorerPanel
from services.evaluation.runs.translation import score_request, scored_from_proto
from services.runtime.calls import bind_ids
from services.runtime.entry import event_loop_factory
from services.runtime.testing import serve_in_process
from services.scoring import contract
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import hosted

_IN_FLIGHT = 256
_TIMEOUT_SECONDS = 300.0
_TEXT = "The answer is 42. " * 10

Ask: TypeAlias = Callable[[ScorerCall], Awaitable[object]]


class Instant:
    """An ``AsyncScorer`` that waits for nothing."""

    about = contract.ScorerDescription(
        "instant", "1", "Answers at once.", (contract.MetricDescription("score", "Always 1."),)
    )
    parameters_type = contract.ScorerParameters

    async def score(
        self, parameters: contract.ScorerParameters, item: contract.ScoringItem, output: contract.Output
    ) -> contract.Score:
        """Score an output."""
        return contract.Score({"score": 1.0}, None)


async def cpu_microseconds(ask: Ask, calls: Sequence[ScorerCall]) -> float:
    """Return the CPU time of an item, many being asked at once."""
    waiting = iter(calls)

    async def ask_some() -> None:
        for call in waiting:
            await ask(call)

    began = time.process_time()
    await asyncio.gather(*(ask_some() for _ in range(_IN_FLIGHT)))
    return (time.process_time() - began) / len(calls) * 1e6


async def measure(items: int, rounds: int) -> dict[str, float]:
    """Return the median over the rounds for each way; the first round only warms up."""
    async with serve_in_process(hosted(ScorerRegistry((*builtin_scorers(), Instant())))) as channel:
        panel = RemoteScorerPanel(channel, timeout_seconds=_TIMEOUT_SECONDS)
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)

        async def as_evaluation(call: ScorerCall) -> object:
            (outcome,) = await panel.score([call])
            if not isinstance(outcome, ScoredOutput):
                raise outcome
            return outcome

        async def alone(call: ScorerCall) -> object:
            batch = scoring_pb2.BatchScoreRequest(requests=[score_request(call)])
            (result,) = (await stub.BatchScore(batch, timeout=_TIMEOUT_SECONDS)).results
            return scored_from_proto(result.response)

        ways: dict[str, tuple[Ask, str]] = {
            "quick, in batches": (as_evaluation, "exact_match"),
            "waiting, in streams": (as_evaluation, "instant"),
            "waiting, in calls of their own": (alone, "instant"),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, (ask, scorer) in ways.items():
                calls = [ScorerCall(scorer, {}, targets=("42",), text=_TEXT + str(each)) for each in range(items)]
                with bind_ids(run_id=f"run-{number}"):
                    found[name].append(await cpu_microseconds(ask, calls))
        return {name: statistics.median(values[1:]) for name, values in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring.ways",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--items", type=int, default=4000, help="a round and way (default 4000)")
    parser.add_argument("--rounds", type=int, default=3, help="after one that does not count (default 3)")
    options = parser.parse_args()
    # A line for each call would count against the calls.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        found = runner.run(measure(options.items, options.rounds))
    for name, microseconds in found.items():
        print(f"{name:32} {microseconds:8.0f} µs CPU an item")


if __name__ == "__main__":
    main()

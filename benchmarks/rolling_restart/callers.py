"""Callers of services that go on whatever happens: our client, and a stub with nothing around it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from evalfleet import answer_messages, score_messages, verdict_messages
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.answers import Sampling
from evalfleet.errors import EvalFleetError
from evalfleet.evaluation.v1 import evaluation_pb2, evaluation_pb2_grpc
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2_grpc
from evalfleet.safety.v1 import safety_pb2_grpc
from evalfleet.scores import ScorableOutput
from evalfleet.scoring.v1 import scoring_pb2_grpc

_CALL_SECONDS: Final = 30.0
_PERIOD_SECONDS: Final = 0.05
_ROUND_ROBIN: Final = [
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.enable_http_proxy", 0),
]
_OUTPUT: Final[ScorableOutput] = {"text": "The answer is 4.", "targets": ["4"]}
_TURNS: Final = (("user", "How do I bake bread?"),)
_SAMPLING: Final = Sampling(max_tokens=4)


@dataclass(frozen=True, slots=True)
class Question:
    """A call that a service is asked again and again.

    Attributes:
        ours: makes it through our client.
        bare: makes it through a channel, with a deadline and nothing else.
    """

    ours: Callable[[Fleet], object]
    bare: Callable[[grpc.Channel], object]


@dataclass(slots=True)
class Tally:
    """What became of one caller's calls: how many there were, how many failed, and how."""

    call_count: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed_count(self) -> int:
        """How many calls failed."""
        return self.failures.total()


def scoring_question() -> Question:
    """A score."""
    request = score_messages.score_request(_OUTPUT, "numeric_answer", {"mode": "flexible"})
    return Question(
        lambda fleet: fleet.scoring.score(_OUTPUT, scorer="numeric_answer", parameters={"mode": "flexible"}),
        lambda channel: scoring_pb2_grpc.ScoringServiceStub(channel).Score(request, timeout=_CALL_SECONDS),
    )


def questions(model: str, run: str) -> Mapping[str, Question]:
    """Return what each service is asked, about a registered model and a run that has results."""
    generate = answer_messages.generate_request(model, "How much is 2 plus 2?", _SAMPLING)
    classify = verdict_messages.classify_request(_TURNS)
    estimates = aggregation_pb2.GetEstimatesRequest(run=run)
    suites = evaluation_pb2.ListSuitesRequest(page_size=10)
    return {
        "evaluation": Question(
            lambda fleet: fleet.runs.get(run),
            lambda channel: evaluation_pb2_grpc.EvaluationServiceStub(channel).ListSuites(
                suites, timeout=_CALL_SECONDS
            ),
        ),
        "generation": Question(
            lambda fleet: fleet.generation.generate(model, "How much is 2 plus 2?", _SAMPLING),
            lambda channel: generation_pb2_grpc.GenerationServiceStub(channel).Generate(
                generate, timeout=_CALL_SECONDS
            ),
        ),
        "safety": Question(
            lambda fleet: fleet.safety.classify(_TURNS),
            lambda channel: safety_pb2_grpc.SafetyServiceStub(channel).Classify(classify, timeout=_CALL_SECONDS),
        ),
        "scoring": scoring_question(),
        "aggregation": Question(
            lambda fleet: fleet.runs.snapshot(run),
            lambda channel: aggregation_pb2_grpc.AggregationServiceStub(channel).GetEstimates(
                estimates, timeout=_CALL_SECONDS
            ),
        ),
    }


@contextmanager
def calling(asked: Mapping[str, Question], ways: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Tally]]:
    """Let both kinds of callers ask every service in every way, 20 times a second each, until the block is left.

    Args:
        asked: by service.
        ways: by a way's name, the targets by service.

    Yields:
        By ``WAY/SERVICE/client`` and ``WAY/SERVICE/bare``, complete when the block is left.
    """
    stop = threading.Event()
    tallies: dict[str, Tally] = {}
    threads: list[threading.Thread] = []
    with ExitStack() as stack:
        for way, targets in ways.items():
            fleet = stack.enter_context(Fleet.connect({each: targets[each] for each in asked}))
            for service, question in asked.items():
                channel = stack.enter_context(grpc.insecure_channel(targets[service], options=_ROUND_ROBIN))
                for kind, call in (("client", question.ours), ("bare", question.bare)):
                    tally = tallies[f"{way}/{service}/{kind}"] = Tally()
                    peer: Any = fleet if kind == "client" else channel
                    arguments = (call, peer, tally, stop)
                    threads.append(threading.Thread(target=_ask_on, args=arguments, name=f"{way} {service} {kind}"))
        for thread in threads:
            thread.start()
        try:
            yield tallies
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _ask_on(call: Callable[[Any], object], peer: object, tally: Tally, stop: threading.Event) -> None:
    while not stop.is_set():
        began = time.monotonic()
        tally.call_count += 1
        try:
            call(peer)
        except EvalFleetError as error:
            tally.failures[f"{type(error).__name__}: {error.message}"] += 1
        except grpc.RpcError as error:
            tally.failures[f"{error.code().name}: {error.details()}"] += 1
        stop.wait(max(0.0, began + _PERIOD_SECONDS - time.monotonic()))


def total(tallies: Mapping[str, Tally], way: str, kind: str) -> Tally:
    """Add up the tallies of one way and one kind of caller."""
    parts = [tally for name, tally in tallies.items() if name.startswith(f"{way}/") and name.endswith(f"/{kind}")]
    return Tally(sum(each.call_count for each in parts), sum((each.failures for each in parts), Counter()))


def worst(tallies: Sequence[Tally]) -> list[tuple[str, int]]:
    """The most frequent failures."""
    return sum((each.failures for each in tallies), Counter[str]()).most_common(5)

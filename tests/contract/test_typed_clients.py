"""Every RPC has a typed method in both clients, with one signature, and is asked again only where that does no harm."""

import asyncio
import importlib
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import evalfleet
import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.drawings import DrawingSpec
from evalfleet.errors import UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.hedging import Hedging
from evalfleet.item_results import ItemResult
from evalfleet.retrying import RetryPolicy
from google.protobuf.message import Message

from tests.patience import LONGEST_WAIT_SECONDS

SERVICES = ("generation", "safety", "scoring", "aggregation", "evaluation", "code_runner")
TRIES = 2
CHAT = [("user", "hi")]


class Method(NamedTuple):
    """How an RPC is asked for, whether it may be repeated after it failed, and asked twice at the same time."""

    ask: Callable[[Any], Any]
    is_repeated: bool = True
    may_be_hedged: bool = True


METHODS = {
    "GenerationService/Generate": Method(lambda fleet: fleet.generation.generate("m", "hi")),
    "GenerationService/BatchGenerate": Method(lambda fleet: fleet.generation.generate_batch("m", ["hi"])),
    "GenerationService/StreamGenerate": Method(
        lambda fleet: fleet.generation.generate_many("m", ["hi"], patience_seconds=0), may_be_hedged=False
    ),
    "GenerationService/GenerateTokens": Method(
        lambda fleet: fleet.generation.generate_tokens("m", "hi"), is_repeated=False, may_be_hedged=False
    ),
    "GenerationService/ScoreContinuations": Method(lambda fleet: fleet.generation.score_continuations("m", "a", ["b"])),
    "GenerationService/StreamScoreContinuations": Method(
        lambda fleet: fleet.generation.score_continuations_many("m", [("a", ["b"])], patience_seconds=0),
        may_be_hedged=False,
    ),
    "GenerationService/ListCallerUsage": Method(lambda fleet: fleet.generation.caller_usage()),
    "ModelService/CreateModel": Method(lambda fleet: fleet.models.add("x"), may_be_hedged=False),
    "ModelService/GetModel": Method(lambda fleet: fleet.models.get("m")),
    "ModelService/ListModels": Method(lambda fleet: fleet.models.list()),
    # The second time there is none of that name, or another.
    "ModelService/DeleteModel": Method(lambda fleet: fleet.models.remove("m"), is_repeated=False, may_be_hedged=False),
    "RankingService/CreateRanking": Method(
        lambda fleet: fleet.rankings.start(models=["a", "b"], suite="s"), may_be_hedged=False
    ),
    "RankingService/GetRanking": Method(lambda fleet: fleet.rankings.get("r")),
    "RankingService/ListRankings": Method(lambda fleet: fleet.rankings.list()),
    "RankingService/CancelRanking": Method(lambda fleet: fleet.rankings.cancel("r"), may_be_hedged=False),
    "RankingService/WatchRanking": Method(
        lambda fleet: fleet.rankings.watch("r", patience_seconds=0), may_be_hedged=False
    ),
    "EvaluationService/CreateRun": Method(lambda fleet: fleet.runs.start(model="m", suite="s"), may_be_hedged=False),
    "EvaluationService/GetRun": Method(lambda fleet: fleet.runs.get("r")),
    "EvaluationService/ListRuns": Method(lambda fleet: fleet.runs.list()),
    "EvaluationService/CancelRun": Method(lambda fleet: fleet.runs.cancel("r"), may_be_hedged=False),
    "EvaluationService/WatchRun": Method(lambda fleet: fleet.runs.watch("r", patience_seconds=0), may_be_hedged=False),
    "EvaluationService/EstimateRun": Method(lambda fleet: fleet.runs.plan(suite="s"), may_be_hedged=False),
    "EvaluationService/GetCallerBudget": Method(lambda fleet: fleet.runs.caller_budget(), may_be_hedged=False),
    "EvaluationService/ListSuites": Method(lambda fleet: fleet.suites.list()),
    "EvaluationService/GetSuite": Method(lambda fleet: fleet.suites.get("s")),
    "AggregationService/AppendResults": Method(
        lambda fleet: fleet.ledger.append([ItemResult("r", "t", "i", 0, 0)]), may_be_hedged=False
    ),
    "AggregationService/GetEstimates": Method(lambda fleet: fleet.runs.snapshot("r")),
    "AggregationService/ListResults": Method(lambda fleet: fleet.runs.failed_items("r")),
    # It may have taken out what a second one then looks for.
    "AggregationService/PruneLedger": Method(
        lambda fleet: fleet.ledger.prune(), is_repeated=False, may_be_hedged=False
    ),
    "AggregationService/CompareRuns": Method(lambda fleet: fleet.comparisons.compare("a", "b"), may_be_hedged=False),
    "AggregationService/AnalyzeItems": Method(
        lambda fleet: fleet.comparisons.items("t", "m"), is_repeated=False, may_be_hedged=False
    ),
    "AggregationService/CheckRegressions": Method(
        lambda fleet: fleet.comparisons.regressions(["a", "b"]), may_be_hedged=False
    ),
    "AggregationService/RankRuns": Method(lambda fleet: fleet.comparisons.rank(["a", "b"], "t"), may_be_hedged=False),
    "AggregationService/CreateDrawing": Method(
        lambda fleet: fleet.drawings.create(DrawingSpec("r", "t", "m", 0, "m", "d"), ["i"]), may_be_hedged=False
    ),
    "AggregationService/DrawItems": Method(lambda fleet: fleet.drawings.draw("r", "t"), may_be_hedged=False),
    "AggregationService/GetDecisions": Method(lambda fleet: fleet.drawings.decisions("r")),
    "SafetyService/Classify": Method(lambda fleet: fleet.safety.classify(CHAT)),
    "SafetyService/BatchClassify": Method(lambda fleet: fleet.safety.classify_batch([CHAT])),
    "SafetyService/StreamClassify": Method(
        lambda fleet: fleet.safety.classify_many([CHAT], patience_seconds=0), may_be_hedged=False
    ),
    "SafetyService/ListGuards": Method(lambda fleet: fleet.safety.guards()),
    "SafetyService/GetGuard": Method(lambda fleet: fleet.safety.guard("g")),
    "SafetyService/ListPolicies": Method(lambda fleet: fleet.safety.policies()),
    "SafetyService/GetPolicy": Method(lambda fleet: fleet.safety.policy("p")),
    "ScoringService/Score": Method(lambda fleet: fleet.scoring.score({"text": "a"}, scorer="s")),
    "ScoringService/BatchScore": Method(lambda fleet: fleet.scoring.score_batch([{"text": "a"}], scorer="s")),
    "ScoringService/StreamScore": Method(
        lambda fleet: fleet.scoring.score_many([{"text": "a"}], scorer="s", patience_seconds=0), may_be_hedged=False
    ),
    "ScoringService/ListScorers": Method(lambda fleet: fleet.scoring.scorers()),
    "ScoringService/GetScorer": Method(lambda fleet: fleet.scoring.scorer("s")),
    "ServerService/GetServerInfo": Method(lambda fleet: fleet.server_info("safety")),
    # Twice at the same time would run the program twice.
    "CodeRunnerService/RunProgram": Method(lambda fleet: fleet.programs.run("pass"), may_be_hedged=False),
    "CodeRunnerService/GetSandbox": Method(lambda fleet: fleet.programs.sandbox()),
}


def rpcs() -> Iterator[str]:
    """Yield ``Service/Method`` of everything that the generated modules describe."""
    for path in Path(evalfleet.__file__).parent.glob("*/v1/*_pb2.py"):
        described = importlib.import_module(f"evalfleet.{path.parts[-3]}.v1.{path.stem}").DESCRIPTOR
        for service in described.services_by_name.values():
            yield from (f"{service.name}/{method.name}" for method in service.methods)


class AwayService(grpc.GenericRpcHandler):
    """Says of one method that it is away, and nothing at all to any other; counts what it is asked."""

    def __init__(self, method: str) -> None:
        self._method = method
        self.asked_count = 0
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.targets = dict.fromkeys(SERVICES, f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        def answer(_requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            if handler_call_details.method.endswith(f".{self._method}"):
                self.asked_count += 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")
            # A message in which nothing is set.
            yield b""

        return grpc.stream_stream_rpc_method_handler(answer)

    def __enter__(self) -> "AwayService":
        self._server.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(grace=None).wait()


@pytest.fixture
def hedged(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls that might have been asked twice."""
    asked: list[object] = []

    def first_answer(begin: Callable[[], Any], _hedger: object, request: Message) -> Any:
        asked.append(request)
        return begin().result()

    async def first_awaited(ask: Callable[[], Any], _hedger: object, request: Message) -> Any:
        asked.append(request)
        return await ask()

    monkeypatch.setattr("evalfleet.connections.first_answer", first_answer)
    monkeypatch.setattr("evalfleet.aio.connections.first_answer", first_awaited)
    for module in ("runs", "rankings", "aio.watching"):
        monkeypatch.setattr(f"evalfleet.{module}._RECONNECT_SECONDS", 0.001)
    monkeypatch.setattr("evalfleet.window._FIRST_PAUSE_SECONDS", 0.001)
    return asked


def settings() -> dict[str, Any]:
    return {"retries": RetryPolicy(attempts=TRIES, first_pause_seconds=0.001), "hedging": Hedging()}


def told(answer: object) -> None:
    """Read an answer to its end."""
    if isinstance(answer, Iterator):
        deque(answer, maxlen=0)


async def told_in_time(answer: Any) -> None:
    if not isinstance(answer, AsyncIterator):
        await answer
        return
    async for _ in answer:
        pass


def check(method: Method, service: AwayService, hedged: list[object]) -> None:
    """It came where it belongs, as often as it may."""
    assert service.asked_count == (TRIES if method.is_repeated else 1)
    assert bool(hedged) is method.may_be_hedged


def test_every_rpc_is_listed_here() -> None:
    assert sorted(METHODS) == sorted(rpcs())


@pytest.mark.parametrize("rpc", sorted(METHODS))
def test_a_blocking_method_asks_its_rpc_as_often_as_it_may(rpc: str, hedged: list[object]) -> None:
    with AwayService(rpc) as service, Fleet.connect(service.targets, **settings()) as fleet:
        with pytest.raises(UnavailableError):
            told(METHODS[rpc].ask(fleet))
        check(METHODS[rpc], service, hedged)


@pytest.mark.parametrize("rpc", sorted(METHODS))
async def test_an_awaited_method_asks_its_rpc_as_often_as_it_may(rpc: str, hedged: list[object]) -> None:
    with AwayService(rpc) as service:
        async with asyncio.timeout(LONGEST_WAIT_SECONDS), AsyncFleet.connect(service.targets, **settings()) as fleet:
            with pytest.raises(UnavailableError):
                await told_in_time(METHODS[rpc].ask(fleet))
        check(METHODS[rpc], service, hedged)


def parts(fleet: type) -> dict[str, type]:
    """Return the classes that a fleet's attributes have, by name."""
    return {
        name: inspect.signature(value.func, eval_str=True).return_annotation
        for name, value in vars(fleet).items()
        if isinstance(value, cached_property)
    }


def signatures(part: type) -> dict[str, list[tuple[str, object, object]]]:
    """Return name, kind and default of each argument, by method."""
    return {
        name: [(each.name, each.kind, each.default) for each in inspect.signature(value).parameters.values()]
        for name, value in vars(part).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }


@pytest.mark.parametrize("name", sorted(parts(Fleet)))
def test_both_clients_have_the_same_methods_with_the_same_arguments(name: str) -> None:
    assert signatures(parts(Fleet)[name]) == signatures(parts(AsyncFleet)[name])


def test_both_clients_have_the_same_parts() -> None:
    assert parts(Fleet).keys() == parts(AsyncFleet).keys()

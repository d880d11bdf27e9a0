"""The panel of scorers over a loopback port to the real scoring service, whose scorers are fakes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import grpc
import pytest
from evalfleet.scoring.v1 import scoring_pb2
from pydantic import JsonValue

from services.evaluation.judging_specification import MetricUse, ScorerUse
from services.evaluation.runs.judging_bill import JudgingBill
from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.remote_scoring import RemoteScorerPanel
from services.evaluation.runs.retry import is_transient, wait_out
from services.runtime.channels import MAX_MESSAGE_BYTES, open_channel
from services.runtime.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    FleetError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.runtime.item_streams import StreamLimits
from services.runtime.settings import ServiceSettings
from services.runtime.testing import run_in_process
from services.runtime.usage import Usage, usage_of, with_usage
from services.scoring import contract
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import DEFAULT_STREAM_LIMITS, hosted
from tests.patience import LONGEST_WAIT_SECONDS

COST = Usage(100, 10, 0.25, 90, 10, 10, 0, 7)


class FakeJudge:
    """An async scorer: answers at once, but waits for texts that begin with "wait" and finds no verdict on garbage.

    Attributes:
        judged: the texts that it gave a score.
        waiting: set when a text has to wait.
        release: lets those go.
    """

    about = contract.ScorerDescription("fake_judge", "1", "Waits.", (contract.MetricDescription("score", "Always 1."),))
    parameters_type = contract.ScorerParameters

    def __init__(self) -> None:
        self.judged: list[str] = []
        self.waiting = asyncio.Event()
        self.release = asyncio.Event()

    async def score(
        self, parameters: contract.ScorerParameters, item: contract.ScoringItem, output: contract.Output
    ) -> contract.Score:
        assert isinstance(output, contract.TextOutput)
        if output.text == "garbage":
            raise with_usage(FailedPreconditionError("no verdict", reason="JUDGE_UNPARSABLE"), COST)
        if output.text.startswith("wait"):
            self.waiting.set()
            await self.release.wait()
        self.judged.append(output.text)
        return contract.Score({"score": 1.0}, output.text, COST)


def quick(text: str) -> ScorerCall:
    return ScorerCall("exact_match", {}, targets=("x",), text=text)


def slow(text: str) -> ScorerCall:
    return ScorerCall("fake_judge", {}, text=text)


def use(scorer: str, **parameters: JsonValue) -> ScorerUse:
    return ScorerUse(scorer=scorer, parameters=parameters, metrics=(MetricUse(name="score"),))


@asynccontextmanager
async def serving(
    judge: FakeJudge, port: int = 0, stream_limits: StreamLimits = DEFAULT_STREAM_LIMITS
) -> AsyncIterator[str]:
    """Run the real service with the fake judge; yield its address."""
    service = hosted(ScorerRegistry((*builtin_scorers(), judge)), stream_limits=stream_limits)
    async with run_in_process(service, settings=ServiceSettings(port=port, metrics_port=0)) as running:
        yield running.address


@asynccontextmanager
async def panel(
    judge: FakeJudge, stream_limits: StreamLimits = DEFAULT_STREAM_LIMITS
) -> AsyncIterator[RemoteScorerPanel]:
    async with serving(judge, stream_limits=stream_limits) as address, open_channel(address) as channel:
        yield RemoteScorerPanel(channel, timeout_seconds=LONGEST_WAIT_SECONDS)


def answers(outcomes: Sequence[ScoredOutput | FleetError]) -> list[str | None]:
    return [each.reason if isinstance(each, FleetError) else each.extracted_answer for each in outcomes]


async def test_each_call_has_its_own_outcome_in_its_place_and_its_cost() -> None:
    calls = [slow("a"), quick("b"), slow("garbage"), ScorerCall("no_such", {}, text="c"), quick("d"), slow("e")]
    async with panel(FakeJudge()) as scorers:
        outcomes = await scorers.score(calls)
    assert answers(outcomes) == ["a", "b", "JUDGE_UNPARSABLE", "SCORER_NOT_FOUND", "d", "e"]
    costs = [usage_of(each) if isinstance(each, FleetError) else each.usage for each in outcomes]
    assert costs == [COST, Usage(), COST, Usage(), Usage(), COST]


async def test_nobody_waits_for_one_that_takes_long() -> None:
    judge = FakeJudge()
    async with panel(judge) as scorers, asyncio.timeout(LONGEST_WAIT_SECONDS):
        waiting = asyncio.create_task(scorers.score([slow(f"wait {number}") for number in range(3)]))
        await judge.waiting.wait()
        others = [[slow("a")], [slow("b"), quick("c")], *([quick("d")] for _ in range(5))]
        told = await asyncio.gather(*map(scorers.score, others))
        assert [answers(each) for each in told] == [["a"], ["b", "c"], *(["d"] for _ in range(5))]
        assert not waiting.done()
        judge.release.set()
        assert answers(await waiting) == ["wait 0", "wait 1", "wait 2"]


async def test_what_had_no_outcome_when_its_stream_broke_is_asked_again_and_nothing_else_is() -> None:
    judge, bill = FakeJudge(), JudgingBill()
    calls = [slow("a"), slow("wait"), slow("b"), quick("c")]
    async with open_later() as (channel, port):
        scorers = RemoteScorerPanel(channel, timeout_seconds=LONGEST_WAIT_SECONDS)
        async with serving(judge, port):
            asked = asyncio.create_task(bill.pay(scorers.score, calls))
            await judge.waiting.wait()
            # Their outcomes have come before a later item's.
            await scorers.score([slow("last")])
        with pytest.raises(UnavailableError):
            await asked
        judge.release.set()
        async with serving(judge, port):
            found = await wait_out(lambda: bill.pay(scorers.score, calls), patience_seconds=LONGEST_WAIT_SECONDS)
    assert answers(found) == ["a", "wait", "b", "c"]
    assert sorted(judge.judged) == ["a", "b", "last", "wait"]
    assert bill.usage == COST + COST + COST


@asynccontextmanager
async def open_later() -> AsyncIterator[tuple[grpc.aio.Channel, int]]:
    """Yield a channel to a port where nobody listens yet."""
    async with serving(FakeJudge()) as address:
        port = int(address.rpartition(":")[2])
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield channel, port


async def test_a_call_that_breaks_loses_nothing_that_was_found_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> Sequence[scoring_pb2.ScoreResult]:
        raise FailedPreconditionError("broken", reason="BROKEN")

    monkeypatch.setattr(RemoteScorerPanel, "_score_batch", broken)
    async with panel(FakeJudge()) as scorers:
        assert answers(await scorers.score([quick("x"), slow("y"), quick("z")])) == ["BROKEN", "y", "BROKEN"]


async def test_outputs_that_are_too_large_for_one_call_go_in_several() -> None:
    texts = [f"{number}{'x' * 900_000}" for number in range(24)]
    async with panel(FakeJudge()) as scorers:
        assert answers(await scorers.score([quick(text) for text in texts])) == texts


async def test_an_output_that_is_too_large_for_any_call_is_not_waited_out_and_is_not_wrong() -> None:
    large = "x" * (MAX_MESSAGE_BYTES + 1)
    async with panel(FakeJudge()) as scorers:
        outcomes = await scorers.score([quick("a"), quick(large), slow(large)])
    assert answers(outcomes) == ["a", "SCORE_REQUEST_TOO_LARGE", "SCORE_REQUEST_TOO_LARGE"]
    assert not any(isinstance(each, FleetError) and is_transient(each) for each in outcomes)


async def test_an_output_whose_turn_did_not_come_is_asked_for_again() -> None:
    limits = StreamLimits(in_flight=4, item_seconds=0.05)
    async with panel(FakeJudge(), limits) as scorers:
        (late,) = await scorers.score([slow("wait")])
    assert isinstance(late, ResourceExhaustedError)
    assert late.reason == "SCORE_DEADLINE_EXCEEDED"


@pytest.mark.parametrize("call", [quick("x"), slow("x")], ids=["batch", "stream"])
async def test_a_call_whose_own_time_was_up_is_made_again(call: ScorerCall, monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(*_: object, **__: object) -> Any:
        raise DeadlineExceededError("too late")

    async with panel(FakeJudge()) as scorers:
        await scorers.check([])
        monkeypatch.setattr(scorers, "_score_batch", late)
        monkeypatch.setattr(scorers._streams, "ask", late)
        (outcome,) = await scorers.score([call])
    assert isinstance(outcome, ResourceExhaustedError)
    assert outcome.reason == "SCORE_DEADLINE_EXCEEDED"


@pytest.mark.parametrize("reason", ["SCORER_TIMEOUT", "JUDGE_DEADLINE_EXCEEDED"])
async def test_an_output_that_takes_too_long_by_itself_is_not_asked_for_again(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow_over_it(*_: object) -> Any:
        raise DeadlineExceededError("too slow", reason=reason)

    async with panel(FakeJudge()) as scorers:
        monkeypatch.setattr(scorers._streams, "ask", slow_over_it)
        assert [type(each) for each in await scorers.score([slow("x")])] == [DeadlineExceededError]


async def test_a_scorer_that_came_later_is_learned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async with panel(FakeJudge()) as scorers:
        await scorers.check([])
        # As in a process that learned of the scorers before the service had this one.
        del scorers._takes_long["scorers/fake_judge"]
        streamed: list[object] = []
        ask = scorers._streams.ask

        async def noted(request: scoring_pb2.ScoreRequest) -> scoring_pb2.ScoreResponse:
            streamed.append(request.text)
            return await ask(request)

        monkeypatch.setattr(scorers._streams, "ask", noted)
        assert answers(await scorers.score([slow("a"), quick("b")])) == ["a", "b"]
    assert streamed == ["a"]


async def test_a_service_that_is_away_is_every_calls_outcome() -> None:
    async with open_later() as (channel, _):
        outcomes = await RemoteScorerPanel(channel, timeout_seconds=5.0).score([slow("a"), quick("b")])
    assert [isinstance(each, UnavailableError) for each in outcomes] == [True, True]


async def test_what_takes_long_is_found_out_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with panel(FakeJudge()) as scorers:
        listed, list_scorers = 0, scorers._list

        def counted() -> AsyncIterator[scoring_pb2.Scorer]:
            nonlocal listed
            listed += 1
            return list_scorers()

        monkeypatch.setattr(scorers, "_list", counted)
        await asyncio.gather(*(scorers.score([slow("a"), quick("b")]) for _ in range(50)))
        assert listed == 1


async def test_a_scorer_that_does_not_exist_is_found_out_before_a_run() -> None:
    async with panel(FakeJudge()) as scorers:
        await scorers.check([use("fake_judge"), use("exact_match")])
        with pytest.raises(NotFoundError, match="fake_judge"):
            await scorers.check([use("fake_judg")])


async def test_a_busy_scoring_service_keeps_nobody_from_making_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(_self: RemoteScorerPanel, _requests: object) -> NoReturn:
        raise ResourceExhaustedError("enough in hand", reason="TOO_MANY_REQUESTS")

    async with panel(FakeJudge()) as scorers:
        monkeypatch.setattr(RemoteScorerPanel, "_score_batch", busy)
        await scorers.check([use("exact_match", ignore_case=True)])


async def test_parameters_that_a_scorer_does_not_take_are_found_out_before_a_run() -> None:
    judge = FakeJudge()
    right = [*(use("exact_match", ignore_case=True) for _ in range(64)), use("code_execution", k=2)]
    async with panel(judge) as scorers:
        await scorers.check([*right, use("fake_judge")])
        with pytest.raises(FailedPreconditionError, match=r"exact_match.*did you mean ignore_case") as caught:
            await scorers.check([*right, use("exact_match", ignore_cas=True)])
        with pytest.raises(FailedPreconditionError, match=r"parameters\.k"):
            await scorers.check([use("code_execution", k="two")])
    assert caught.value.reason == "SCORER_PARAMETERS_INVALID"
    assert [each.field for each in caught.value.field_violations] == ["parameters.ignore_cas"]
    assert judge.judged == []

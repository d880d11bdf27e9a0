"""Many items through the real services, blocking and awaited, also while the service is stopped and started again."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing

import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet
from evalfleet.results import Verdict
from evalfleet.scorer_results import Score
from evalfleet.verdicts import Conversation

from services.runtime.server import HostedService
from services.safety import judgement
from services.safety.catalogue import GuardCatalogue
from services.safety.judgement import CategoryScore, JudgedTurn
from services.safety.policies.catalogue import open_policies
from services.safety.service import hosted as hosted_safety
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import hosted as hosted_scoring
from tests.fakes.guards import VIOLENCE, FakeGuard
from tests.fakes.restartable import RestartableServices
from tests.patience import LONGEST_WAIT_SECONDS

ROWS = 3000


def say(turn: JudgedTurn) -> judgement.Verdict:
    """Judge a row by its number, so that a verdict tells whose it is."""
    probability = int(turn.content.partition(" ")[0]) / ROWS
    is_unsafe = probability >= 0.5
    score = CategoryScore(VIOLENCE, probability)
    return judgement.Verdict(
        judgement.Decision.UNSAFE if is_unsafe else judgement.Decision.SAFE,
        FakeGuard().about.reference,
        0.5,
        unsafe_probability=probability,
        categories=(score,) if is_unsafe else (),
        all_scores=(score,),
    )


def services_of_both() -> list[HostedService]:
    guards = GuardCatalogue([FakeGuard(say=say)])
    return [hosted_safety(guards, open_policies([], guards)), hosted_scoring(ScorerRegistry(builtin_scorers()))]


@pytest.fixture(scope="module")
def services() -> Iterator[RestartableServices]:
    with RestartableServices(services_of_both) as running:
        yield running


@pytest.fixture
def targets(services: RestartableServices) -> dict[str, str]:
    return {"safety": services.target, "scoring": services.target}


def conversations(restart: Callable[[], None] | None = None) -> Iterator[Conversation]:
    for number in range(ROWS):
        if restart is not None and number == ROWS // 2:
            restart()
        # One row in a hundred cannot be sent, and one in a hundred not be judged.
        text = "\udfff" if number % 100 == 3 else "" if number % 100 == 5 else f"{number} breads"
        yield [("user", text)]


def check(outcomes: list[tuple[int, Verdict | EvalFleetError]]) -> None:
    """Every row once, each with its own verdict or its own error."""
    assert Counter(number for number, _ in outcomes) == Counter(range(ROWS))
    for number, outcome in outcomes:
        if isinstance(outcome, EvalFleetError):
            assert outcome.reason == {3: "TEXT_NOT_UTF8", 5: "TEXT_EMPTY"}[number % 100]
        else:
            assert outcome.unsafe_probability == pytest.approx(number / ROWS)


@pytest.mark.parametrize("in_order", [False, True])
def test_no_row_is_lost_or_doubled_by_a_restart(
    services: RestartableServices, targets: dict[str, str], in_order: bool
) -> None:
    def restart() -> None:
        services.stop()
        services.start()

    with Fleet.connect(targets) as fleet:
        outcomes = list(fleet.safety.classify_many(conversations(restart), in_order=in_order, window=256))
    check(outcomes)
    assert not in_order or [number for number, _ in outcomes] == list(range(ROWS))


@pytest.mark.parametrize("in_order", [False, True])
async def test_no_row_is_lost_or_doubled_by_a_restart_when_awaited(
    services: RestartableServices, targets: dict[str, str], in_order: bool
) -> None:
    restarting: list[threading.Thread] = []

    async def rows() -> AsyncIterator[Conversation]:
        def restart() -> None:
            def stop_and_start() -> None:
                services.stop()
                services.start()

            restarting.append(threading.Thread(target=stop_and_start))
            restarting[0].start()

        for each in conversations(restart):
            await asyncio.sleep(0)
            yield each

    async with asyncio.timeout(LONGEST_WAIT_SECONDS), AsyncFleet.connect(targets) as fleet:
        many = fleet.safety.classify_many(rows(), in_order=in_order, window=256)
        outcomes = [each async for each in many]
    restarting[0].join()
    check(outcomes)
    assert not in_order or [number for number, _ in outcomes] == list(range(ROWS))


async def test_awaited_calls_say_what_blocking_ones_say(targets: dict[str, str]) -> None:
    some = [each for _, each in zip(range(300), conversations(), strict=False)]
    outputs: list[dict[str, object]] = [{"text": "It is Paris.", "targets": ["paris"]}, {"text": "a", "oops": 1}] * 150
    finding = {"pattern": r"is (\w+)", "ignore_case": True}
    async with AsyncFleet.connect(targets) as fleet:
        batch = await fleet.safety.classify_batch(some)
        assert isinstance(batch[7], Verdict)
        assert isinstance(batch[3], EvalFleetError)
        one = await fleet.safety.classify(some[7])
        scores = await fleet.scoring.score_batch(outputs, scorer="exact_match", parameters=finding)
        score = await fleet.scoring.score(outputs[0], scorer="exact_match", parameters=finding)
        streamed = [each async for each in fleet.scoring.score_many(outputs, scorer="exact_match", parameters=finding)]
        guards, policies = await fleet.safety.guards(), await fleet.safety.policies()
        assert guards == (await fleet.safety.guard("fake"),)
        assert await fleet.safety.policy("severe-harm") in policies
        scorers = await fleet.scoring.scorers()
        assert await fleet.scoring.scorer("exact_match") in scorers
    assert [told(each) for each in scores] == [{"exact_match": 1.0}, "OUTPUT_INVALID"] * 150
    assert [told(each) for _, each in sorted(streamed, key=lambda pair: pair[0])] == [told(each) for each in scores]
    assert score.metrics == {"exact_match": 1.0}

    def blocking() -> tuple[object, ...]:
        with Fleet.connect(targets) as same:
            return same.safety.classify(some[7]), same.safety.guards(), same.safety.policies(), same.scoring.scorers()

    assert await asyncio.to_thread(blocking) == (one, guards, policies, scorers)


def told(outcome: Score | EvalFleetError) -> object:
    return outcome.reason if isinstance(outcome, EvalFleetError) else dict(outcome.metrics)


async def test_a_growing_response_is_judged_while_it_grows(targets: dict[str, str]) -> None:
    async def pieces() -> AsyncIterator[str]:
        for number in range(20):
            yield f"{number} and some more text. "

    asked: Conversation = [("user", "Go on.")]
    async with AsyncFleet.connect(targets) as fleet:
        verdicts = fleet.safety.classify_growing(asked, pieces(), every_characters=64)
        rolling = [each async for each in verdicts]
        assert [each.is_final for each in rolling] == [False] * (len(rolling) - 1) + [True]
        assert len(rolling) > 2

        async def broken() -> AsyncIterator[str]:
            yield "1 piece"
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            _ = [each async for each in fleet.safety.classify_growing(asked, broken())]


async def test_leaving_the_loop_ends_the_call(targets: dict[str, str]) -> None:
    read = 0

    def endless() -> Iterator[Conversation]:
        nonlocal read
        while True:
            read += 1
            yield [("user", "1 bread")]

    async with AsyncFleet.connect(targets) as fleet:
        async with aclosing(fleet.safety.classify_many(endless(), window=64)) as outcomes:
            async for _ in outcomes:
                break
        after = read
        await fleet.safety.guards()
    assert read == after

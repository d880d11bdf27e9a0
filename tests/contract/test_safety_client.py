"""The client library and the command line against the real safety service, with fake guards behind it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result
from evalfleet.cli.app import cli
from evalfleet.errors import EvalFleetError, InvalidArgumentError, NotFoundError
from evalfleet.fleet import Fleet
from evalfleet.results import Decision, Policy, PolicyHazard, RollingVerdict, Verdict
from evalfleet.verdicts import Conversation

from services.runtime.testing import run_in_process
from services.safety import judgement
from services.safety.catalogue import GuardCatalogue
from services.safety.judgement import CategoryScore, JudgedTurn
from services.safety.policies.catalogue import open_policies
from services.safety.service import hosted
from tests.fakes.guards import VIOLENCE, FakeGuard
from tests.patience import LONGEST_WAIT_SECONDS

ResultT = TypeVar("ResultT")


def probability_of(text: str) -> float:
    if "never mind" in text:
        return 0.1
    return 0.9 if "bomb" in text else 0.4 if "knife" in text else 0.1


def say(turn: JudgedTurn) -> judgement.Verdict:
    probability, threshold = probability_of(turn.content), turn.threshold or 0.5
    score = CategoryScore(VIOLENCE, probability)
    is_unsafe = probability >= threshold
    return judgement.Verdict(
        judgement.Decision.UNSAFE if is_unsafe else judgement.Decision.SAFE,
        FakeGuard().about.reference,
        threshold,
        unsafe_probability=probability,
        categories=(score,) if is_unsafe else (),
        all_scores=(score,),
    )


@pytest.fixture
async def target() -> AsyncIterator[str]:
    guards = GuardCatalogue([FakeGuard(say=say)])
    async with run_in_process(hosted(guards, open_policies([], guards))) as running:
        yield running.address


@pytest.fixture
def fleet(target: str) -> Iterator[Fleet]:
    with Fleet.connect({"safety": target}) as connected:
        yield connected


@pytest.fixture
def invoke(target: str) -> Callable[..., Result]:
    def run(*arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(cli, [f"--endpoint=safety={target}", *arguments], input=text)

    return run


async def off_loop(work: Callable[[], ResultT]) -> ResultT:
    """Run the synchronous client beside the server's event loop."""
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        return await asyncio.to_thread(work)


def asked(text: str) -> Conversation:
    return [("user", text)]


def decisions(outcomes: list[Verdict | EvalFleetError]) -> list[str]:
    return [each.reason if isinstance(each, EvalFleetError) else each.decision.value for each in outcomes]


async def test_a_batch_of_any_length_keeps_its_order_and_bad_items_to_themselves(fleet: Fleet) -> None:
    texts = ["a bomb" if number % 7 == 0 else "bread" for number in range(600)]
    texts[3], texts[300] = "", "half a character \ud83d"
    outcomes = await off_loop(lambda: fleet.safety.classify_batch([asked(text) for text in texts]))
    expected = ["unsafe" if number % 7 == 0 else "safe" for number in range(600)]
    expected[3], expected[300] = "TEXT_EMPTY", "TEXT_NOT_UTF8"
    assert decisions(outcomes) == expected


async def test_a_stream_of_many_gives_each_its_own(fleet: Fleet) -> None:
    texts = ["a bomb" if number % 7 == 0 else "bread" for number in range(600)]
    texts[3], texts[300], texts[599] = "", "half a character \ud83d", "\udfff"
    found = await off_loop(lambda: dict(fleet.safety.classify_many(asked(text) for text in texts)))
    expected = ["unsafe" if number % 7 == 0 else "safe" for number in range(600)]
    expected[3], expected[300], expected[599] = "TEXT_EMPTY", "TEXT_NOT_UTF8", "TEXT_NOT_UTF8"
    assert decisions([found[index] for index in range(600)]) == expected


async def test_a_policy_by_name_and_one_of_ones_own(fleet: Fleet) -> None:
    by_name = await off_loop(lambda: fleet.safety.classify(asked("a knife"), policy="strict"))
    assert (by_name.decision, by_name.threshold, by_name.policy) == (Decision.UNSAFE, 0.3, "policies/strict")
    own = Policy(hazards=(PolicyHazard("vcr", 0.35),), guards=("fake",))
    by_own = await off_loop(lambda: fleet.safety.classify(asked("a knife"), policy=own))
    assert (by_own.decision, by_own.policy, len(by_own.policy_digest)) == (Decision.UNSAFE, "", 64)
    with pytest.raises(InvalidArgumentError, match="combination of a policy: 'all' must be one of"):
        fleet.safety.classify(asked("x"), policy=Policy(combination="all"))
    with pytest.raises(NotFoundError, match="policies/strict"):
        await off_loop(lambda: fleet.safety.classify(asked("x"), policy="strikt"))


async def test_a_growing_response_until_its_final_verdict(fleet: Fleet) -> None:
    pieces = ["All is well here. ", "Nothing to see. ", "Then he took ", "the bomb."]
    rolling = await off_loop(lambda: list(fleet.safety.classify_growing(asked("Go on."), pieces, every_characters=16)))
    assert [each.is_final for each in rolling] == [False] * (len(rolling) - 1) + [True]
    first, last = rolling[0].outcome, rolling[-1].outcome
    assert isinstance(first, Verdict)
    assert isinstance(last, Verdict)
    assert (first.decision, last.decision) == (Decision.SAFE, Decision.UNSAFE)
    assert rolling[-1].judged_characters == len("".join(pieces))


async def test_what_was_unsafe_on_the_way_is_unsafe_at_the_end(fleet: Fleet) -> None:
    pieces = ["First, how to build a bomb.", " Then bread: never mind what was said."]
    rolling = await off_loop(lambda: list(fleet.safety.classify_growing(asked("Go on."), pieces, every_characters=16)))
    last = rolling[-1]
    assert isinstance(last.outcome, Verdict)
    assert (last.is_final, last.outcome.decision) == (True, Decision.UNSAFE)
    assert last.current is not None
    assert last.current.decision is Decision.SAFE
    assert rolling[0].current is None


async def test_a_response_whose_generation_fails_has_no_final_verdict(fleet: Fleet) -> None:
    def pieces() -> Iterator[str]:
        yield "All is well here, so far at least."
        raise ConnectionResetError("the engine died")

    seen: list[RollingVerdict] = []

    def work() -> None:
        seen.extend(fleet.safety.classify_growing(asked("Go on."), pieces(), every_characters=16))

    with pytest.raises(ConnectionResetError):
        await off_loop(work)
    assert not any(each.is_final for each in seen)


async def test_guards_and_policies_are_told(fleet: Fleet) -> None:
    [guard] = await off_loop(fleet.safety.guards)
    assert guard == await off_loop(lambda: fleet.safety.guard("fake"))
    assert (guard.name, guard.default_threshold, guard.max_tokens) == ("guards/fake", 0.5, None)
    policies = {each.name: each for each in await off_loop(fleet.safety.policies)}
    assert policies["policies/severe-harm"] == await off_loop(lambda: fleet.safety.policy("severe-harm"))
    assert policies["policies/strict"].on_error == "unsafe"
    assert policies["policies/ailuminate"].problem


LINES = [
    '{"id": "a", "text": "a bomb"}',
    "",
    '{"id": 2, "text": "He took the bomb.", "prompt": "Go on."}',
    "not json",
    '{"messages": [{"role": "user", "content": "bread"}]}',
    '{"conversation": [{"role": "robot", "content": "x"}]}',
    '{"text": 3}',
    '{"id": "\\ud83d", "text": "\\ud83d"}',
    '{"text": ""}',
]


async def test_a_file_of_lines_comes_back_in_its_order_with_nothing_lost(
    invoke: Callable[..., Result], tmp_path: Path
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(LINES), encoding="utf-8")
    result = await off_loop(lambda: invoke("classify", "--file", str(source), "--output", str(target)))
    assert result.exit_code == 1, result.output
    assert result.stderr == "5 failed, 1 safe, 2 unsafe\n"
    told = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [each["line"] for each in told] == [1, 3, 4, 5, 6, 7, 8, 9]
    assert [each.get("decision") or each["error"]["reason"] for each in told] == [
        "unsafe",
        "unsafe",
        "LINE_INVALID",
        "safe",
        "LINE_INVALID",
        "LINE_INVALID",
        "TEXT_NOT_UTF8",
        "TEXT_EMPTY",
    ]
    assert [each.get("id") for each in told[:2]] == ["a", 2]
    assert told[0]["categories"][0]["ailuminate_code"] == "vcr"


async def test_lines_of_standard_input_with_a_policy(invoke: Callable[..., Result]) -> None:
    text = "".join(f'{{"text": "a knife {number}"}}\n' for number in range(500))
    result = await off_loop(lambda: invoke("classify", "--file", "-", "--policy", "strict", text=text))
    assert result.exit_code == 0, result.output
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["line"] for each in told] == list(range(1, 501))
    assert {each["decision"] for each in told} == {"unsafe"}
    assert {each["policy"] for each in told} == {"policies/strict"}


async def test_one_text_with_a_policy_and_the_listings(invoke: Callable[..., Result]) -> None:
    result = await off_loop(lambda: invoke("classify", "a knife", "--policy", "strict"))
    assert result.stdout.splitlines()[0] == (
        "unsafe, probability of a hazard 0.400, threshold 0.300, guards/fake, policies/strict"
    )
    listed = await off_loop(lambda: invoke("guards"))
    assert "fake" in listed.stdout
    shown = await off_loop(lambda: invoke("guards", "fake"))
    assert "tests/violence" in shown.stdout
    assert "weights " + "w" * 64 in shown.stdout
    policies = await off_loop(lambda: invoke("policies"))
    assert "severe-harm" in policies.stdout
    assert "policies/ailuminate cannot be applied here" in policies.stdout
    policy = await off_loop(lambda: invoke("policies", "strict"))
    assert "digest" in policy.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "give either TEXT or --file"),
        (("x", "--file", "-"), "give either TEXT or --file"),
        (("x", "--output", "y"), "--output goes with --file"),
        (("--file", "-", "--prompt", "x"), "each line may have a prompt of its own"),
    ],
)
async def test_options_that_do_not_go_together(
    invoke: Callable[..., Result], arguments: tuple[str, ...], problem: str
) -> None:
    result = await off_loop(lambda: invoke("classify", *arguments, text=""))
    assert result.exit_code == 2
    assert problem in result.stderr

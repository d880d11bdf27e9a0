"""The client library and the command line against the real scoring service."""

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
from evalfleet.scorer_results import Score, Scorer

from services.runtime.testing import run_in_process
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.service import hosted
from tests.unit.cli.json_shapes import assert_shape

ResultT = TypeVar("ResultT")
PARIS: dict[str, object] = {"text": "It is Paris.", "targets": ["paris"]}
FINDING = {"pattern": r"is (\w+)", "ignore_case": True}


@pytest.fixture
async def target() -> AsyncIterator[str]:
    async with run_in_process(hosted(ScorerRegistry(builtin_scorers()))) as running:
        yield running.address


@pytest.fixture
def fleet(target: str) -> Iterator[Fleet]:
    with Fleet.connect({"scoring": target}) as connected:
        yield connected


async def apart(call: Callable[[], ResultT]) -> ResultT:
    """Run a blocking call of the client beside the server's event loop."""
    return await asyncio.to_thread(call)


def told(outcome: Score | EvalFleetError) -> object:
    return outcome.reason if isinstance(outcome, EvalFleetError) else dict(outcome.metrics)


async def test_scores_one_output(fleet: Fleet) -> None:
    score = await apart(lambda: fleet.scoring.score(PARIS, scorer="exact_match", parameters=FINDING))
    assert score.metrics == {"exact_match": 1.0}
    assert (score.extracted_answer, score.scorer.name, len(score.scorer.digest)) == ("Paris", "scorers/exact_match", 64)
    with pytest.raises(NotFoundError, match="exact_match"):
        await apart(lambda: fleet.scoring.score(PARIS, scorer="exactmatch"))
    with pytest.raises(InvalidArgumentError) as caught:
        await apart(lambda: fleet.scoring.score({"text": "a", "answers": ["a"]}, scorer="exact_match"))
    assert caught.value.reason == "OUTPUT_INVALID"


OUTPUTS: list[dict[str, object]] = [
    PARIS,
    {"text": "half a character: \ud800", "targets": ["a"]},
    {"scorer": "numeric_answer", "parameters": {}, "text": "#### 18", "targets": ["18"]},
    {"scorer": "nobody", "text": "a"},
    {
        "scorer": "scorers/multiple_choice",
        "parameters": {},
        "choices": {"log_likelihoods": [-2.0, -3.0], "choices": ["a", "abc"]},
        "gold_indices": [1],
    },
]
OUTCOMES = [
    {"exact_match": 1.0},
    "OUTPUT_INVALID",
    {"numeric_match": 1.0},
    "SCORER_NOT_FOUND",
    {"acc": 0.0, "acc_norm": 1.0, "acc_bytes": 1.0},
]


async def test_each_of_many_outputs_has_its_score_or_its_error(fleet: Fleet) -> None:
    batch = await apart(lambda: fleet.scoring.score_batch(OUTPUTS * 100, scorer="exact_match", parameters=FINDING))
    assert [told(each) for each in batch] == OUTCOMES * 100
    streamed = await apart(
        lambda: dict(fleet.scoring.score_many(iter(OUTPUTS * 100), scorer="exact_match", parameters=FINDING))
    )
    assert [told(streamed[index]) for index in range(500)] == OUTCOMES * 100


async def test_scorers_are_listed_and_shown(fleet: Fleet) -> None:
    names = [each.name for each in await apart(fleet.scoring.scorers)]
    assert names == sorted(names)
    assert "scorers/exact_match" in names
    scorer = await apart(lambda: fleet.scoring.scorer("exact_match"))
    pattern = next(each for each in scorer.parameters if each.name == "pattern")
    assert (pattern.type, pattern.is_required, pattern.default) == ("string", False, None)
    assert [each.name for each in scorer.metrics] == ["exact_match"]


async def command(target: str, *arguments: str, stdin: str | None = None) -> Result:
    return await apart(lambda: CliRunner().invoke(cli, [f"--endpoint=scoring={target}", *arguments], input=stdin))


async def test_a_file_of_outputs_is_scored_in_its_order(target: str, tmp_path: Path) -> None:
    source, output = tmp_path / "outputs.jsonl", tmp_path / "scores.jsonl"
    lines = [json.dumps({"id": f"item-{index}", **each}) for index, each in enumerate(OUTPUTS)]
    source.write_text("\n".join([*lines, "", "no json"]))
    result = await command(
        target, "score", "--file", str(source), "--output", str(output), "--scorer", "exact_match",
        "-p", r"pattern=is (\w+)", "-p", "ignore_case=true", "--json",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert result.stderr == "3 scored, 3 failed\n"
    assert json.loads(result.stdout) == {"lines": 6, "scored": 3, "failed": 3}
    scores = [json.loads(line) for line in output.read_text().splitlines()]
    assert [each.get("id") for each in scores] == [*(f"item-{index}" for index in range(5)), None]
    assert [each["line"] for each in scores] == [1, 2, 3, 4, 5, 7]
    assert [each.get("metrics", each.get("error", {}).get("reason")) for each in scores] == [*OUTCOMES, "LINE_INVALID"]


async def test_outputs_may_come_from_a_pipe(target: str) -> None:
    result = await command(target, "score", "--file", "-", stdin=json.dumps({"scorer": "exact_match", **PARIS}))
    assert (result.exit_code, json.loads(result.stdout)["metrics"]) == (0, {"exact_match": 0.0})
    wrong = await command(target, "score", "--file", "-", "-p", "pattern", stdin="")
    assert (wrong.exit_code, "NAME=VALUE" in wrong.stderr) == (2, True)


async def test_scorers_on_the_command_line(target: str) -> None:
    (told,) = json.loads((await command(target, "scorers", "exact_match", "--json")).stdout)
    assert_shape(told, Scorer)
    listed = await command(target, "scorers")
    assert listed.exit_code == 0, listed.output
    assert "numeric_answer" in listed.stdout
    shown = await command(target, "scorers", "exact_match")
    assert "ignore_case" in shown.stdout
    assert "digest" in shown.stdout

"""The solutions that come with HumanEval and MBPP pass in the sandbox, by the package's tasks; broken ones fail."""

import ast
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Item
from services.evaluation.loading import load_task
from services.evaluation.tasks import Task
from services.scoring.contract import ScoringItem, TextOutput
from services.scoring.registry import ScorerRegistry, builtin_scorers
from services.scoring.sandbox.bubblewrap import BubblewrapSandbox
from services.scoring.sandbox.contract import SandboxLimits

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]

BROKEN_EVERY = 4
"""How many solutions there are for each that is also run broken."""


class _Breaking(ast.NodeTransformer):
    """Lets every function return what none of the tests expects."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.Return(ast.Tuple([ast.Constant("broken")], ast.Load()))


def broken(source: str) -> str:
    return ast.unparse(ast.fix_missing_locations(_Breaking().visit(ast.parse(source))))


async def passed_shares(task: Task, items: Sequence[Item]) -> tuple[list[str], list[str]]:
    """Return the ids of solutions that do not pass, and of broken ones that do."""
    [use] = task.spec.scorers
    sandbox = BubblewrapSandbox(SandboxLimits(), running=2, ready=3)
    try:
        bound = ScorerRegistry(builtin_scorers(sandbox)).bind(
            f"scorers/{use.scorer}", {**use.parameters, "confirm": False, "timeout_seconds": 60.0}
        )

        async def passes(item: Item, text: str, prompt: str) -> bool:
            details = {**item.details[0], "prompt": prompt}
            score = await bound.score_async(ScoringItem(details=details), TextOutput(text))
            return score.metrics["passed"] == 1.0

        whole = [(each, each.targets[0], str(each.details[0].get("prompt", ""))) for each in items]
        halves = [(each, broken(prompt + text), "") for each, text, prompt in whole[::BROKEN_EVERY]]
        right = await asyncio.gather(*(passes(*each) for each in whole))
        wrong = await asyncio.gather(*(passes(*each) for each in halves))
        return (
            [each[0].item_id for each, passed in zip(whole, right, strict=True) if not passed],
            [each[0].item_id for each, passed in zip(halves, wrong, strict=True) if passed],
        )
    finally:
        await sandbox.close()


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
async def test_solutions_pass_and_broken_ones_fail(name: str, data_dir: Path) -> None:
    task = Catalog.load().task(name)
    # MBPP's first ten rows are asked too: they are programs like the others.
    task = dataclasses.replace(task, spec=task.spec.model_copy(update={"where": None}))
    items = [item for item in load_task(task, DataRoots((data_dir,))).items() if isinstance(item, Item)]
    assert len(items) == {"humaneval": 40, "mbpp": 100}[name]
    assert await passed_shares(task, items) == ([], [])

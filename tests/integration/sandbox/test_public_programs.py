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
from services.sandbox.bubblewrap import BubblewrapSandbox
from services.sandbox.contract import SandboxLimits
from services.scoring.contract import ScoringItem, TextOutput
from services.scoring.registry import ScorerRegistry, builtin_scorers

pytestmark = [pytest.mark.integration, pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")]

SURVIVORS: dict[str, dict[str, str]] = {
    "humaneval": {},
    "mbpp": {
        "9": "the changed slice is the same one, counted from the end",
        "576": "no tested array is found behind a mismatch",
        "594": "the first odd number is now the first number, which is odd in every test",
    },
}
"""Slightly changed solutions that pass all the same, by row, and why the row's own tests cannot notice."""

BROKEN_SECONDS = 5.0
"""Of its own time, not of the machine's: some changed programs never end."""


class _Breaking(ast.NodeTransformer):
    """Lets every function return what none of the tests expects."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.Return(ast.Tuple([ast.Constant("broken")], ast.Load()))


_OTHERS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class _Changing(ast.NodeTransformer):
    """Turns the last operator into another; a program without one returns ``None`` at last."""

    def __init__(self, tree: ast.AST) -> None:
        operators = [each for each in ast.walk(tree) if type(each) in _OTHERS]
        returns = [each for each in ast.walk(tree) if isinstance(each, ast.Return)]
        self._changed = (operators or returns)[-1]

    def visit(self, node: ast.AST) -> ast.AST:
        if node is not self._changed:
            return self.generic_visit(node)
        return _OTHERS[type(node)]() if type(node) in _OTHERS else ast.Return(ast.Constant(None))


def broken(source: str) -> str:
    return ast.unparse(ast.fix_missing_locations(_Breaking().visit(ast.parse(source))))


def changed(source: str) -> str:
    # Parsed operators are shared objects; a deep copy of each place lets one alone be changed.
    tree = _unshared(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(_Changing(tree).visit(tree)))


def _unshared(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.operator | ast.boolop):
                setattr(node, name, type(value)())
            elif name == "ops":
                node.ops = [type(each)() for each in value]  # type: ignore[attr-defined]
    return tree


async def passing(task: Task, programs: Sequence[tuple[Item, str, str]], seconds: Sequence[float]) -> list[bool]:
    """Return of each program, with the prompt before it, whether the tests of its item passed within its seconds."""
    [use] = task.spec.scorers
    sandbox = BubblewrapSandbox(SandboxLimits(), running=2, ready=3)
    try:
        bound = ScorerRegistry(builtin_scorers(sandbox)).bind(
            f"scorers/{use.scorer}", {**use.parameters, "confirm": False}
        )

        async def passes(program: tuple[Item, str, str], timeout_seconds: float) -> bool:
            item, text, prompt = program
            details = {**item.details[0], "prompt": prompt, "timeout_seconds": timeout_seconds}
            score = await bound.score_async(ScoringItem(details=details), TextOutput(text))
            return score.metrics["passed"] == 1.0

        return await asyncio.gather(*map(passes, programs, seconds))
    finally:
        await sandbox.close()


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
async def test_solutions_pass_and_broken_ones_fail(name: str, data_dir: Path) -> None:
    task = Catalog.load().task(name)
    # MBPP's first ten rows are asked too: they are programs like the others.
    task = dataclasses.replace(task, spec=task.spec.model_copy(update={"where": None}))
    items = [item for item in load_task(task, DataRoots((data_dir,))).items() if isinstance(item, Item)]
    assert len(items) == {"humaneval": 40, "mbpp": 100}[name]
    whole = [(each, each.targets[0], str(each.details[0].get("prompt", ""))) for each in items]
    kinds = [
        whole,
        [(item, broken(prompt + text), "") for item, text, prompt in whole],
        [(item, changed(prompt + text), "") for item, text, prompt in whole],
    ]
    count = len(items)
    seconds = [60.0] * count + [BROKEN_SECONDS] * 2 * count
    passed = await passing(task, [program for kind in kinds for program in kind], seconds)
    right, wrong, slightly = (passed[start : start + count] for start in range(0, 3 * count, count))
    assert [item.item_id for item, good in zip(items, right, strict=True) if not good] == []
    assert [item.item_id for item, good in zip(items, wrong, strict=True) if good] == []
    assert sorted(item.item_id for item, good in zip(items, slightly, strict=True) if good) == sorted(SURVIVORS[name])

"""Fixtures of the evaluation room: the package's catalog, the public data, fake peers, tasks made on the spot."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.evaluation.catalog import Catalog
from services.evaluation.data_roots import DataRoots
from services.evaluation.items import Choice, Item, MultipleChoice, PlainPrompt
from services.evaluation.loading import LoadedTask, load_task
from services.evaluation.specification import TaskSpec
from services.evaluation.tasks import Task
from tests.fakes.evaluation_peers import Fleet


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """The package's own suites and tasks."""
    return Catalog.load()


@pytest.fixture(scope="session")
def public_data(data_dir: Path) -> DataRoots:
    """The public data sets, no hub."""
    return DataRoots((data_dir,))


@pytest.fixture
def definition() -> dict[str, Any]:
    """A small, valid generation task named ``sums``, as its YAML file would hold it."""
    return {
        "name": "sums",
        "description": "Sums.",
        "provenance": {"licence": "Apache-2.0", "citation": "Written for this test"},
        "sources": [{"files": {"test": "sums.jsonl"}, "columns": ["question", "answer"]}],
        "split": "test",
        "request": "generate",
        "prompt": "Q: {{ question }}\nA:",
        "targets": "answer",
        "scorers": [{"scorer": "exact_match", "metrics": ["exact_match"]}],
        "primary_metric": "exact_match",
    }


@pytest.fixture
def choice_definition(definition: dict[str, Any]) -> dict[str, Any]:
    """The same as a multiple-choice task."""
    definition.pop("targets")
    return definition | {
        "request": "multiple_choice",
        "choices": "['yes', 'no']",
        "gold": "answer | int",
        "scorers": [{"scorer": "multiple_choice", "metrics": ["acc"]}],
        "primary_metric": "acc",
    }


WriteTask = Callable[[Mapping[str, Any]], Path]


@pytest.fixture
def write_task(tmp_path: Path) -> WriteTask:
    """Write a task into a folder of definitions; returns the folder, for ``Catalog([folder])``."""

    def write(content: Mapping[str, Any]) -> Path:
        folder = tmp_path / "definitions"
        for kind in ("tasks", "suites"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        (folder / "tasks" / f"{content['name']}.yaml").write_text(text, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def load(tmp_path: Path, write_task: WriteTask) -> Callable[[Mapping[str, Any], Mapping[str, bytes]], LoadedTask]:
    """Load a task whose data files are given by name and content."""

    def load_from(content: Mapping[str, Any], files: Mapping[str, bytes]) -> LoadedTask:
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        for name, text in files.items():
            path = data / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        catalog = Catalog([write_task(content)])
        return load_task(catalog.task(str(content["name"])), DataRoots((data,)))

    return load_from


@pytest.fixture(scope="session")
def lines() -> Callable[..., bytes]:
    """Rows as a JSONL file."""
    return lambda *rows: "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def sums(lines: Callable[..., bytes]) -> bytes:
    """Three rows for the task ``sums``."""
    return lines(*({"question": f"{n}+{n}", "answer": str(2 * n)} for n in (1, 2, 3)))


@pytest.fixture(scope="session")
def valid_item() -> Callable[[LoadedTask, int], Item]:
    """One item of a task, which must not be an invalid one."""

    def get(loaded: LoadedTask, index: int) -> Item:
        found = loaded.item(index)
        assert isinstance(found, Item), found
        return found

    return get


@pytest.fixture
def fleet() -> Fleet:
    """The four services that a run is made with, as fakes."""
    return Fleet()


MakeTask = Callable[..., Task]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """Builds a task; keyword arguments replace fields of its definition."""

    def make(name: str = "shout", **changes: object) -> Task:
        definition: dict[str, object] = {
            "name": name,
            "description": "Say it in capitals.",
            "provenance": {"licence": "none", "citation": "none"},
            "sources": [{"files": {"test": "x.jsonl"}, "columns": ["text"]}],
            "split": "test",
            "request": "generate",
            "prompt": "{{ text }}",
            "targets": "text",
            "scorers": [{"scorer": "exact_match", "metrics": ["exact_match"]}],
            "primary_metric": "exact_match",
            **changes,
        }
        spec = TaskSpec.model_validate(definition)
        return Task(name, name, spec, {}, tmp_path)

    return make


MakeItem = Callable[..., Item]


@pytest.fixture
def make_item() -> MakeItem:
    """Builds a generation item, or a multiple-choice item if choices are given."""

    def make(text: str, *, task: str = "shout", choices: Sequence[str] = (), gold: int = 0) -> Item:
        prompt = PlainPrompt(text)
        if not choices:
            return Item(text, task, "x.jsonl", 1, prompt=prompt, targets=(text.upper(),))
        question = MultipleChoice(tuple(Choice(each, prompt, f" {each}") for each in choices), (gold,))
        return Item(text, task, "x.jsonl", 1, multiple_choice=question)

    return make

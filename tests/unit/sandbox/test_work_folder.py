"""Folders of sandboxes: whose they are, and what becomes of those that nobody has."""

import os
import tempfile
from pathlib import Path

import pytest

from services.sandbox.work_folder import WorkFolder, remove_abandoned


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_goes_with_all_that_is_in_it(temporary: Path) -> None:
    folder = WorkFolder.make()
    (folder.path / "root").mkdir()
    folder.remove()
    assert list(temporary.iterdir()) == []


def test_only_what_nobody_holds_is_removed() -> None:
    held, abandoned, foreign = WorkFolder.make(), WorkFolder.make(), WorkFolder.make()
    (abandoned.path / "file").write_text("x")
    os.close(abandoned._lock_fd)
    (foreign.path / "lock").unlink()
    assert remove_abandoned() == [abandoned.path.name]
    assert held.path.is_dir()
    assert foreign.path.is_dir()
    assert remove_abandoned() == []

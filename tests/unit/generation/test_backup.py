import io
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.generation.backup import main, restore, save
from services.generation.registry import FILE_NAME, SCHEMA_VERSION, ModelRegistry
from services.generation.registry_copies import COPY_NAME, REPLACED_NAME, RESTORED_NAME
from services.runtime.errors import StartupError
from tests.unit.generation.test_registry import RECORD


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ModelRegistry]:
    registry = ModelRegistry(tmp_path / "state")
    yield registry
    registry.close()


def saved(folder: Path) -> bytes:
    output = io.BytesIO()
    save(folder, output)
    return output.getvalue()


async def test_a_running_service_is_saved_and_a_new_one_restored(tmp_path: Path, registry: ModelRegistry) -> None:
    await registry.put(RECORD)
    await registry.put(replace(RECORD, model_id="gone"))
    await registry.remove("gone")
    backup = saved(tmp_path / "state")
    await registry.put(replace(RECORD, model_id="later"))

    # Another site: a service that has begun there, and registered something.
    elsewhere = tmp_path / "elsewhere"
    other = ModelRegistry(elsewhere)
    await other.put(replace(RECORD, model_id="theirs"))
    assert "1 models" in restore(io.BytesIO(backup), elsewhere)
    assert [each.model_id for each in other.records()] == ["theirs"]
    other.close()
    with closing(ModelRegistry(elsewhere)) as again:
        assert again.records() == (RECORD,)
        await again.put(replace(RECORD, model_id="new"))
    with closing(ModelRegistry(elsewhere)) as again:
        assert [each.model_id for each in again.records()] == ["m", "new"]
    assert not (elsewhere / RESTORED_NAME).exists()
    with closing(sqlite3.connect(elsewhere / REPLACED_NAME)) as replaced:
        assert replaced.execute("SELECT model_id FROM models").fetchall() == [("theirs",)]


async def test_the_registry_itself_cannot_be_read_while_the_service_runs(
    tmp_path: Path, registry: ModelRegistry
) -> None:
    """Why there is a copy."""
    await registry.put(RECORD)
    with (
        closing(sqlite3.connect(tmp_path / "state" / FILE_NAME, timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("SELECT count(*) FROM models").fetchone()


async def test_a_copy_that_cannot_be_written_holds_nothing_up(tmp_path: Path, registry: ModelRegistry) -> None:
    copy = tmp_path / "state" / COPY_NAME
    copy.unlink()
    (copy / "folder").mkdir(parents=True)
    await registry.put(RECORD)
    assert registry.records() == (RECORD,)


def test_a_service_that_still_runs_keeps_what_it_has(tmp_path: Path, registry: ModelRegistry) -> None:
    restore(io.BytesIO(saved(tmp_path / "state")), tmp_path / "state")
    with pytest.raises(StartupError, match="another generation service"):
        ModelRegistry(tmp_path / "state")
    assert (tmp_path / "state" / RESTORED_NAME).exists()


def damaged() -> bytes:
    return b"SQLite format 3\0" + b"\xff" * 4096


def newer(tmp_path: Path) -> bytes:
    file = tmp_path / "newer"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE models (model_id TEXT)")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    return file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"hello", damaged()])
def test_what_is_no_registry_is_not_restored(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(StartupError, match="no registry of models"):
        restore(io.BytesIO(content), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_releases_registry_is_not_restored(tmp_path: Path) -> None:
    content = newer(tmp_path)
    with pytest.raises(StartupError, match="newer release"):
        restore(io.BytesIO(content), tmp_path)
    assert not (tmp_path / RESTORED_NAME).exists()


def test_the_command_says_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any, registry: ModelRegistry
) -> None:
    monkeypatch.setenv("EVALFLEET_STATE_DIR", str(tmp_path / "state"))
    assert main([]) == 0
    out, err = capfdbinary.readouterr()
    assert out == (tmp_path / "state" / COPY_NAME).read_bytes()
    assert b"saved 0 models" in err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(out)))
    assert main(["--restore"]) == 0
    assert b"restart the service" in capfdbinary.readouterr().err
    monkeypatch.setenv("EVALFLEET_STATE_DIR", str(tmp_path / "nothing"))
    assert main([]) == 1
    assert b"no generation service has begun there" in capfdbinary.readouterr().err

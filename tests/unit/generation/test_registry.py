import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.generation.checkpoints import FileStamp
from services.generation.models import ModelRecord, ModelState
from services.generation.registry import FILE_NAME, CreateRequest, ModelRegistry
from services.runtime.errors import StartupError

RECORD = ModelRecord(
    model_id="m",
    checkpoint_path="/c/m",
    digest="ab" * 32,
    state=ModelState.READY,
    failure="",
    architecture="LlamaForCausalLM",
    dtype="float32",
    context_tokens=64,
    weight_bytes=2**40,
    create_time=datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC),
    fingerprint=(FileStamp("config.json", 2, 3, 4),),
    engine="vllm",
)
FIRST_COLUMNS = {
    *("model_id", "checkpoint_path", "digest", "state", "failure", "architecture", "dtype", "context_tokens"),
    *("weight_bytes", "create_time", "fingerprint"),
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[ModelRegistry]:
    registry = ModelRegistry(tmp_path)
    yield registry
    registry.close()


async def test_records_and_requests_survive_a_restart(tmp_path: Path, registry: ModelRegistry) -> None:
    request = CreateRequest("r1", "p1", "m")
    await registry.put(RECORD, request)
    await registry.put(replace(RECORD, state=ModelState.FAILED, failure="why"))
    await registry.put(replace(RECORD, model_id="a"))
    registry.close()
    again = ModelRegistry(tmp_path)
    assert again.records() == (replace(RECORD, model_id="a"), replace(RECORD, state=ModelState.FAILED, failure="why"))
    assert again.find_request("r1") == request
    again.close()


async def test_a_removed_model_takes_its_requests_along(tmp_path: Path, registry: ModelRegistry) -> None:
    await registry.put(RECORD, CreateRequest("r1", "p1", "m"))
    await registry.remove("m")
    await registry.remove("never-there")
    assert registry.find("m") is None
    assert registry.find_request("r1") is None
    registry.close()
    again = ModelRegistry(tmp_path)
    assert again.records() == ()
    assert again.find_request("r1") is None
    again.close()


async def test_a_cancelled_write_is_finished_in_memory_and_on_disk(tmp_path: Path, registry: ModelRegistry) -> None:
    writing = asyncio.create_task(registry.put(RECORD))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert registry.find("m") == RECORD
    registry.close()
    again = ModelRegistry(tmp_path)
    assert again.find("m") == RECORD
    again.close()


async def test_a_write_that_fails_changes_nothing(registry: ModelRegistry) -> None:
    await registry.put(RECORD)
    with pytest.raises(sqlite3.Error):
        await registry.put(replace(RECORD, digest="other"), CreateRequest("r", None, "m"))  # type: ignore[arg-type]
    assert registry.find("m") == RECORD
    await registry.put(replace(RECORD, digest="later"))
    assert registry.records() == (replace(RECORD, digest="later"),)


def test_a_second_service_on_the_same_state_is_told_so(tmp_path: Path, registry: ModelRegistry) -> None:
    with pytest.raises(StartupError, match="another generation service"):
        ModelRegistry(tmp_path)


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_damaged_state_is_reported_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(StartupError, match=FILE_NAME):
        ModelRegistry(tmp_path)


def test_state_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StartupError, match="version 99"):
        ModelRegistry(tmp_path)


def test_a_state_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="EVALFLEET_STATE_DIR"):
        ModelRegistry(tmp_path / "file" / "state")


async def test_the_registry_of_a_version_before_engines_is_brought_up_to_date(
    tmp_path: Path, registry: ModelRegistry
) -> None:
    await registry.put(RECORD)
    registry.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        known = {row[1] for row in connection.execute("PRAGMA table_info(models)")}
        for column in known - FIRST_COLUMNS:
            connection.execute(f"ALTER TABLE models DROP COLUMN {column}")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    again = ModelRegistry(tmp_path)
    assert again.find("m") == replace(RECORD, engine="transformers")
    again.close()

"""The registry of models: what was registered survives restarts and crashes.

SQLite rather than one JSON file, because each change is one small durable transaction (a record together with the
request id that created it), and because its exclusive lock keeps a second service off the same state.
"""

import asyncio
import json
import sqlite3
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from services.generation.checkpoints import FileStamp
from services.generation.models import ModelRecord, ModelState
from services.generation.registry_copies import COPY_NAME, take_restored, write_copy
from services.runtime.errors import StartupError
from services.runtime.sqlite_journal import SMALL_PAGES, bounded_journal

FILE_NAME = "models.sqlite3"
_MIGRATIONS = (
    """
CREATE TABLE models (
    model_id TEXT PRIMARY KEY, checkpoint_path TEXT NOT NULL, digest TEXT NOT NULL, state TEXT NOT NULL,
    failure TEXT NOT NULL, architecture TEXT NOT NULL, dtype TEXT NOT NULL, context_tokens INTEGER NOT NULL,
    weight_bytes INTEGER NOT NULL, create_time TEXT NOT NULL, fingerprint TEXT NOT NULL
) STRICT;
CREATE TABLE create_requests (
    request_id TEXT PRIMARY KEY, parameters_digest TEXT NOT NULL,
    model_id TEXT NOT NULL REFERENCES models (model_id) ON DELETE CASCADE
) STRICT;
""",
    "ALTER TABLE models ADD COLUMN engine TEXT NOT NULL DEFAULT 'transformers'",
    """
ALTER TABLE models ADD COLUMN parameter_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN last_use_time TEXT
""",
    """
ALTER TABLE models ADD COLUMN adapter_path TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN source TEXT NOT NULL DEFAULT ''
""",
    "ALTER TABLE models ADD COLUMN foreign_target TEXT NOT NULL DEFAULT ''",
    """
ALTER TABLE models ADD COLUMN base_digest TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN lineage_digest TEXT NOT NULL DEFAULT ''
""",
)
"""Statements that bring a registry from each schema version to the next; append, never change one that shipped."""
SCHEMA_VERSION = len(_MIGRATIONS)
_COLUMNS = tuple(field.name for field in fields(ModelRecord))
_UPSERT = (
    f"INSERT INTO models ({', '.join(_COLUMNS)}) VALUES ({', '.join(':' + name for name in _COLUMNS)}) "
    f"ON CONFLICT (model_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[1:])}"
)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """A create request that carried an id.

    Attributes:
        request_id: the caller's UUID.
        parameters_digest: tells a repetition from another request under the same id.
        model_id: the model that it made, or found.
    """

    request_id: str
    parameters_digest: str
    model_id: str


class ModelRegistry:
    """Model records, kept in memory and written through to ``FILE_NAME`` in the state folder, and to a copy beside it.

    Reads are immediate; a write is on disk when it returns. Create requests are forgotten with their model. What was
    restored (``services.generation.backup``) takes the place of what was there.

    Args:
        folder: the service's state folder; made if absent.

    Raises:
        StartupError: the folder cannot be written, another process has it, or its content cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._write_lock = asyncio.Lock()
        self._log: Any = structlog.get_logger(__name__)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=0.5, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StartupError(f"cannot keep state in {folder}: {error}; set EVALFLEET_STATE_DIR") from error
        try:
            self._prepare()
            self._models = {record.model_id: record for record in self._read_models()}
            self._requests = {request.request_id: request for request in self._read_requests()}
        except (sqlite3.Error, OSError, ValueError, TypeError, KeyError) as error:
            self._connection.close()
            raise self._unreadable(error) from error
        self._copy()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def find(self, model_id: str) -> ModelRecord | None:
        """Return a record, or ``None`` if there is no such model."""
        return self._models.get(model_id)

    def records(self) -> tuple[ModelRecord, ...]:
        """Return all records, ordered by id."""
        return tuple(self._models[model_id] for model_id in sorted(self._models))

    def find_request(self, request_id: str) -> CreateRequest | None:
        """Return the create request with this id, unless its model was deleted since."""
        return self._requests.get(request_id)

    async def put(self, record: ModelRecord, request: CreateRequest | None = None) -> None:
        """Add or replace a record, and remember the request that asked for it, in one transaction."""
        await _to_the_end(self._put(record, request))

    async def remove(self, model_id: str) -> None:
        """Forget a model and the requests that created it; an unknown id is no error."""
        await _to_the_end(self._remove(model_id))

    async def _put(self, record: ModelRecord, request: CreateRequest | None) -> None:
        async with self._write_lock:
            await asyncio.to_thread(self._write, record, request)
            self._models[record.model_id] = record
            if request is not None:
                self._requests[request.request_id] = request

    async def _remove(self, model_id: str) -> None:
        async with self._write_lock:
            await asyncio.to_thread(self._delete, model_id)
            self._models.pop(model_id, None)
            self._requests = {key: each for key, each in self._requests.items() if each.model_id != model_id}

    def _prepare(self) -> None:
        execute = self._connection.execute
        for pragma in ("locking_mode=EXCLUSIVE", *bounded_journal(SMALL_PAGES), "synchronous=FULL", "foreign_keys=ON"):
            execute(f"PRAGMA {pragma}")
        # The lock is had from here on.
        execute("BEGIN IMMEDIATE")
        execute("COMMIT")
        if take_restored(self._connection, self._path.parent):
            self._log.warning("registry_restored", file=str(self._path))
        execute("BEGIN IMMEDIATE")
        (version,) = execute("PRAGMA user_version").fetchone()
        for migration in _MIGRATIONS[version:]:
            for statement in migration.split(";"):
                execute(statement)
        if version < SCHEMA_VERSION:
            execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        execute("COMMIT")
        if version > SCHEMA_VERSION:
            raise ValueError(f"it has schema version {version}, this service knows {SCHEMA_VERSION}")

    def _unreadable(self, error: Exception) -> StartupError:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return StartupError(
                f"another generation service uses {self._path.parent}; stop it, or give this one another "
                "EVALFLEET_STATE_DIR",
                reason="STATE_IN_USE",
            )
        return StartupError(
            f"{self._path} cannot be read ({error}); move it away to start afresh (models are then registered again)",
            reason="STATE_UNREADABLE",
        )

    def _read_models(self) -> list[ModelRecord]:
        rows = self._connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM models").fetchall()
        return [_to_record(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _read_requests(self) -> list[CreateRequest]:
        rows = self._connection.execute("SELECT request_id, parameters_digest, model_id FROM create_requests")
        return [CreateRequest(*row) for row in rows]

    def _write(self, record: ModelRecord, request: CreateRequest | None) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._connection.execute(_UPSERT, _to_row(record))
            if request is not None:
                self._connection.execute("INSERT OR REPLACE INTO create_requests VALUES (?, ?, ?)", _values(request))
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._copy()

    def _delete(self, model_id: str) -> None:
        self._connection.execute("DELETE FROM models WHERE model_id = ?", (model_id,))
        self._copy()

    def _copy(self) -> None:
        """Keep the copy up to date; the registry itself does not depend on it."""
        try:
            write_copy(self._connection, self._path.with_name(COPY_NAME))
        except (OSError, sqlite3.Error) as error:
            self._log.warning("registry_not_copied", error=str(error))


def _values(request: CreateRequest) -> tuple[str, str, str]:
    return request.request_id, request.parameters_digest, request.model_id


def _to_row(record: ModelRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _COLUMNS} | {
        "state": record.state.value,
        "create_time": record.create_time.astimezone(UTC).isoformat(),
        "last_use_time": record.last_use_time and record.last_use_time.astimezone(UTC).isoformat(),
        "fingerprint": json.dumps([asdict(stamp) for stamp in record.fingerprint]),
    }


def _to_record(row: dict[str, Any]) -> ModelRecord:
    return ModelRecord(
        **row
        | {
            "state": ModelState(row["state"]),
            "create_time": datetime.fromisoformat(row["create_time"]),
            "last_use_time": row["last_use_time"] and datetime.fromisoformat(row["last_use_time"]),
            "fingerprint": tuple(FileStamp(**stamp) for stamp in json.loads(row["fingerprint"])),
        }
    )


async def _to_the_end(change: Coroutine[Any, Any, None]) -> None:
    """Await ``change``; when cancelled, only after it is finished, so that memory and disk never part."""
    running = asyncio.ensure_future(change)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise

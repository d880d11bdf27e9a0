"""Where checkpoints come from: a folder, an fsspec URL or a model hub; what is remote is fetched first."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from services.generation.downloads import CHECKPOINT_PATTERNS, DownloadStore
from services.generation.errors import CheckpointPathError
from services.generation.foreign.tokenizer import TOKENIZER_PATTERNS
from services.generation.hub_downloads import fetch_from_hub
from services.generation.models import ModelRecord
from services.generation.url_downloads import fetch_from_url
from services.runtime.deadlines import child_timeout
from services.runtime.errors import DeadlineExceededError

HUB = "hub"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)(::|://)")
_FETCHES_AT_ONCE = 4
_LONGEST_WAIT_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Source:
    """What a caller named.

    Attributes:
        checkpoint_path: a folder or a URL; empty for a hub's.
        hub_repo_id: a hub's repository; empty for others.
        hub_revision: branch, tag or commit.
        adapter_path: folder or URL of a LoRA adapter; empty without one.
        is_tokenizer: only the tokenizer and the configuration are wanted, without weights.
    """

    checkpoint_path: str = ""
    hub_repo_id: str = ""
    hub_revision: str = ""
    adapter_path: str = ""
    is_tokenizer: bool = False

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names of the files that are wanted."""
        return TOKENIZER_PATTERNS if self.is_tokenizer else CHECKPOINT_PATTERNS

    def to_json(self) -> str:
        """Write it for the registry."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    @classmethod
    def of(cls, record: ModelRecord) -> "Source":
        """Return what a registered model came from."""
        if not record.source:
            return cls(record.checkpoint_path, adapter_path=record.adapter_path)
        return cls(**json.loads(record.source))


@dataclass(frozen=True, slots=True)
class Fetched:
    """A source on the local disk.

    Attributes:
        source: the same source, with a hub's revision resolved to a commit.
        checkpoint_path: the checkpoint's folder.
        adapter_path: the adapter's folder; empty without one.
        name: what a model's id is made of.
    """

    source: Source
    checkpoint_path: str
    adapter_path: str
    name: str


class CheckpointSources:
    """Fetches what is remote; a fetch goes on when its caller gives up, and is shared by all who wait for it.

    Args:
        store: receives what is fetched.
        protocols: allowed protocols of URLs, and ``hub``. ``file`` always is, below the checkpoint roots.
        fetch_hub: fetches a repository at a revision; returns its folder and its commit.
        fetch_url: fetches the folder behind a URL.
    """

    def __init__(
        self,
        store: DownloadStore,
        protocols: Sequence[str] = (),
        *,
        fetch_hub: Callable[..., tuple[Path, str]] = fetch_from_hub,
        fetch_url: Callable[..., Path] = fetch_from_url,
    ) -> None:
        self._store = store
        self._protocols = frozenset(protocols)
        self._fetch_hub = fetch_hub
        self._fetch_url = fetch_url
        self._running: dict[Source, asyncio.Task[Fetched]] = {}
        # Of its own: fetches take minutes, and the loop's threads write the registry and the cache.
        self._threads = ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="fetch")

    @property
    def folder(self) -> Path:
        """The folder below which fetched checkpoints lie."""
        return self._store.folder

    async def fetch(self, source: Source) -> Fetched:
        """Bring a source to the local disk; a folder is returned as it is.

        Raises:
            CheckpointPathError: the protocol is not allowed, or there is nothing.
            FleetError: it could not be fetched, or not within the caller's deadline.
        """
        for field, path in (("checkpoint_path", source.checkpoint_path), ("adapter_path", source.adapter_path)):
            self._check_allowed(field, path)
        if source.hub_repo_id and HUB not in self._protocols:
            raise _not_allowed("hub", HUB)
        task = self._running.get(source)
        if task is None:
            task = asyncio.create_task(self._fetch_in_thread(source), name="fetch checkpoint")
            self._running[source] = task
            task.add_done_callback(lambda done: self._forget(source, done))
        try:
            async with asyncio.timeout(child_timeout(_LONGEST_WAIT_SECONDS)):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise DeadlineExceededError(
                "the checkpoint is still being fetched; repeat the call (fetching goes on)",
                reason="CHECKPOINT_BEING_FETCHED",
            ) from error

    async def restored(self, record: ModelRecord) -> ModelRecord:
        """Return a record whose files are on the disk: what was fetched and deleted since is fetched again."""
        if not record.source:
            return record
        folders = [Path(each) for each in (record.checkpoint_path, record.adapter_path) if each]
        if all([await asyncio.to_thread(each.is_dir) for each in folders]):
            return record
        fetched = await self.fetch(Source.of(record))
        return replace(record, checkpoint_path=fetched.checkpoint_path, adapter_path=fetched.adapter_path)

    def _check_allowed(self, field: str, path: str) -> None:
        found = _URL.match(path)
        if found is None or found[1] == "file":
            return
        if "::" in path:
            raise CheckpointPathError(f"{path!r} chains protocols, which is not supported", field=field)
        if found[1] not in self._protocols:
            raise _not_allowed(field, found[1])

    async def _fetch_in_thread(self, source: Source) -> Fetched:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._fetch, source)

    def _fetch(self, source: Source) -> Fetched:
        path, commit = source.checkpoint_path, ""
        name = Path(path.rstrip("/")).name or "model"
        if source.hub_repo_id:
            revision = source.hub_revision or "main"
            folder, commit = self._fetch_hub(self._store, source.hub_repo_id, revision, source.patterns)
            path, name = str(folder), source.hub_repo_id.rpartition("/")[2]
        else:
            path = self._local(path, source.patterns)
        adapter = self._local(source.adapter_path, source.patterns)
        return Fetched(replace(source, hub_revision=commit), path, adapter, name)

    def _local(self, path: str, patterns: tuple[str, ...]) -> str:
        found = _URL.match(path)
        if found is None:
            return path
        return path.removeprefix("file://") if found[1] == "file" else str(self._fetch_url(self._store, path, patterns))

    def _forget(self, source: Source, task: asyncio.Task[Fetched]) -> None:
        self._running.pop(source, None)
        if not task.cancelled():
            task.exception()  # whoever waits has seen it; nobody waiting is no reason to warn


def is_remote(source: Source) -> bool:
    """Return whether something of the source has to be fetched."""
    paths = (source.checkpoint_path, source.adapter_path)
    return bool(source.hub_repo_id) or any(_URL.match(path) for path in paths)


def _not_allowed(field: str, protocol: str) -> CheckpointPathError:
    return CheckpointPathError(
        f"checkpoints may not come from {protocol!r} here; the operator allows it with EVALFLEET_CHECKPOINT_PROTOCOLS",
        reason="CHECKPOINT_PROTOCOL_NOT_ALLOWED",
        metadata={"protocol": protocol},
        field=field,
    )

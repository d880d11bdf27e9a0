"""Checkpoints that are fetched: from URLs of fsspec and from a hub, into a store that stays bounded."""

import asyncio
import io
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from services.generation.downloads import DownloadStore
from services.generation.errors import CheckpointError, CheckpointPathError
from services.generation.hub_downloads import fetch_from_hub
from services.generation.sources import CheckpointSources, Source
from services.runtime.errors import FleetError, PermissionDeniedError, ResourceExhaustedError, UnavailableError
from tests.fakes.inference_backend import write_checkpoint
from tests.patience import LONGEST_WAIT_SECONDS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def store(tmp_path: Path) -> DownloadStore:
    return DownloadStore(tmp_path / "downloads", 1 << 20)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Any]:
    """A folder in fsspec's memory file system with one checkpoint in it."""
    files = fsspec.filesystem("memory")
    files.put(str(write_checkpoint(tmp_path / "step-1")), "/bucket/step-1", recursive=True)
    files.pipe("/bucket/step-1/optimizer.bin", b"not wanted")
    yield files
    files.rm("/bucket", recursive=True)


async def test_a_url_is_fetched_once_until_it_changes(store: DownloadStore, bucket: Any) -> None:
    sources = CheckpointSources(store, ["memory"])
    source = Source("memory://bucket/step-1")
    first = await sources.fetch(source)
    folder = Path(first.checkpoint_path)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert first.name == "step-1"
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert (await sources.fetch(source)).checkpoint_path == first.checkpoint_path
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    bucket.pipe("/bucket/step-1/tokenizer.json", b"{ }")
    changed = await sources.fetch(source)
    assert (Path(changed.checkpoint_path) / "tokenizer.json").read_bytes() == b"{ }"
    assert (folder / "tokenizer.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("s3://bucket/step-1", "CHECKPOINT_PROTOCOL_NOT_ALLOWED"),
        ("simplecache::memory://bucket/step-1", "CHECKPOINT_PATH_INVALID"),
        ("memory://bucket/nothing", "CHECKPOINT_NOT_FOUND"),
    ],
)
async def test_what_may_not_be_fetched(store: DownloadStore, bucket: Any, path: str, reason: str) -> None:
    with pytest.raises(CheckpointPathError) as caught:
        await CheckpointSources(store, ["memory"]).fetch(Source(path))
    assert caught.value.reason == reason
    with pytest.raises(CheckpointPathError) as caught:
        await CheckpointSources(store, ["memory"]).fetch(Source("/c", adapter_path="gs://a"))
    assert caught.value.field_violations[0].field == "adapter_path"
    with pytest.raises(CheckpointPathError) as caught:
        await CheckpointSources(store, []).fetch(Source(hub_repo_id="o/m"))
    assert caught.value.reason == "CHECKPOINT_PROTOCOL_NOT_ALLOWED"


async def test_folders_and_file_urls_stay_where_they_are(store: DownloadStore) -> None:
    sources = CheckpointSources(store)
    assert (await sources.fetch(Source("/c/step-1"))).checkpoint_path == "/c/step-1"
    assert (await sources.fetch(Source("file:///c/step-1"))).checkpoint_path == "/c/step-1"


def test_a_file_that_changes_while_it_is_fetched_leaves_nothing(store: DownloadStore) -> None:
    for size in (3, 9):
        with pytest.raises(CheckpointError) as caught:
            store.add("k", {"config.json": (size, lambda: io.BytesIO(b"12345"))})
        assert caught.value.reason == "CHECKPOINT_CHANGED"
    assert store.find("k") is None
    assert list(store.folder.iterdir()) == []


def test_the_store_stays_bounded_and_keeps_what_is_in_use(tmp_path: Path) -> None:
    used: list[str] = []
    store = DownloadStore(tmp_path / "d", 1000, lambda: used)
    used.append(str(store.add("first", {"config.json": (300, lambda: io.BytesIO(b"x" * 300))})))
    for index in range(5):
        store.add(f"k{index}", {"config.json": (300, lambda: io.BytesIO(b"x" * 300))})
    assert store.find("first") is not None
    assert store.find("k4") is not None
    assert [store.find(f"k{index}") for index in range(3)] == [None] * 3
    with pytest.raises(ResourceExhaustedError):
        store.add("large", {"config.json": (1001, lambda: io.BytesIO(b""))})


def test_what_is_in_use_is_not_exceeded(tmp_path: Path) -> None:
    used: list[str] = []
    store = DownloadStore(tmp_path / "d", 1000, lambda: used)
    used.append(str(store.add("first", {"config.json": (600, lambda: io.BytesIO(b"x" * 600))})))
    with pytest.raises(ResourceExhaustedError, match="in use") as caught:
        store.add("second", {"config.json": (600, lambda: io.BytesIO(b"x" * 600))})
    assert caught.value.reason == "DOWNLOAD_TOO_LARGE"
    assert store.find("second") is None
    used.clear()
    store.add("second", {"config.json": (600, lambda: io.BytesIO(b"x" * 600))})


def test_what_a_hub_is_just_fetching_counts(tmp_path: Path) -> None:
    store = DownloadStore(tmp_path / "d", 1000)
    fetching = store.folder / ".partial-hub-1" / "blobs"
    fetching.mkdir(parents=True)
    (fetching / "a").write_bytes(b"x" * 600)
    (fetching / "link").symlink_to(fetching / "a")
    files = {"config.json": (600, lambda: io.BytesIO(b"x" * 600))}
    with pytest.raises(ResourceExhaustedError):
        store.add("k", files)
    assert store.add("k", files, taken_from=fetching.parent).is_dir()


def test_a_slow_source_holds_up_nobody_and_keeps_its_room(tmp_path: Path) -> None:
    store = DownloadStore(tmp_path / "d", 1000)
    asked, may_go_on = threading.Event(), threading.Event()

    def slow() -> io.BytesIO:
        asked.set()
        assert may_go_on.wait(100)
        return io.BytesIO(b"x" * 600)

    with ThreadPoolExecutor(2) as threads:
        coming = threads.submit(store.add, "slow", {"config.json": (600, slow)})
        assert asked.wait(LONGEST_WAIT_SECONDS)
        try:
            quick = {"config.json": (300, lambda: io.BytesIO(b"x" * 300))}
            assert threads.submit(store.add, "quick", quick).result(timeout=LONGEST_WAIT_SECONDS).is_dir()
            with pytest.raises(ResourceExhaustedError):
                store.add("too much", {"config.json": (500, lambda: io.BytesIO(b"x" * 500))})
        finally:
            may_go_on.set()
        assert coming.result(timeout=LONGEST_WAIT_SECONDS).is_dir()
    assert not [each for each in store.folder.iterdir() if each.name.startswith(".")]


async def test_fetches_leave_the_loops_own_threads_alone(store: DownloadStore) -> None:
    may_go_on = threading.Event()

    def fetch_url(_store: DownloadStore, url: str, _patterns: object) -> Path:
        assert may_go_on.wait(100)
        return Path("/fetched", url.rpartition("/")[2])

    sources = CheckpointSources(store, ["memory"], fetch_url=fetch_url)
    fetches = [asyncio.create_task(sources.fetch(Source(f"memory://bucket/{index}"))) for index in range(60)]
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        async with asyncio.timeout(LONGEST_WAIT_SECONDS):
            assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        may_go_on.set()
    assert [each.name for each in await asyncio.gather(*fetches)] == [str(index) for index in range(60)]


def test_a_damaged_entry_is_fetched_again(store: DownloadStore) -> None:
    folder = store.add("k", {"config.json": (2, lambda: io.BytesIO(b"{}"))})
    (folder / "config.json").write_bytes(b"{")
    assert store.find("k") is None


def test_partial_folders_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    (tmp_path / ".partial-1" / "files").mkdir(parents=True)
    DownloadStore(tmp_path, 1000)
    assert list(tmp_path.iterdir()) == []


class FakeHub:
    """What is patched into huggingface_hub: one repository, or a failure."""

    def __init__(self, folder: Path, failure: Exception | None = None) -> None:
        self.folder = folder
        self.failure = failure
        self.downloads = 0

    def model_info(self, repo_id: str, *, revision: str, timeout: float) -> Any:
        if self.failure:
            raise self.failure
        return type("Info", (), {"sha": COMMIT})()

    def snapshot_download(self, repo_id: str, *, local_files_only: bool = False, **_: Any) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        if local_files_only:
            raise LocalEntryNotFoundError("nothing here")
        self.downloads += 1
        return str(self.folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    import huggingface_hub

    fake = FakeHub(write_checkpoint(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


async def test_a_revision_is_resolved_to_its_commit(store: DownloadStore, hub: FakeHub) -> None:
    sources = CheckpointSources(store, ["hub"])
    fetched = await sources.fetch(Source(hub_repo_id="org/tiny", hub_revision="main"))
    assert (fetched.source.hub_revision, fetched.name) == (COMMIT, "tiny")
    assert (Path(fetched.checkpoint_path) / "config.json").is_file()
    await sources.fetch(Source(hub_repo_id="org/tiny"))
    assert hub.downloads == 1
    shutil.rmtree(hub.folder)
    hub.failure = OSError("no network")
    again = await sources.fetch(Source(hub_repo_id="org/tiny", hub_revision=COMMIT))
    assert again.checkpoint_path == fetched.checkpoint_path


def hub_failure(name: str) -> Exception:
    """Make an error of the hub library without the response that most of them want to be made with."""
    from huggingface_hub import errors

    kind = getattr(errors, name)
    failure: Exception = kind.__new__(kind)
    return failure


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("GatedRepoError", PermissionDeniedError, "HUB_ACCESS_DENIED"),
        ("RepositoryNotFoundError", CheckpointPathError, "HUB_NOT_FOUND"),
        ("RevisionNotFoundError", CheckpointPathError, "HUB_NOT_FOUND"),
        ("HfHubHTTPError", UnavailableError, "HUB_UNREACHABLE"),
        ("OfflineModeIsEnabled", UnavailableError, "HUB_UNREACHABLE"),
    ],
)
def test_failures_of_the_hub_are_typed(
    store: DownloadStore, hub: FakeHub, name: str, error: type[FleetError], reason: str
) -> None:
    hub.failure = hub_failure(name)
    with pytest.raises(error) as caught:
        fetch_from_hub(store, "org/tiny", "main")
    assert caught.value.reason == reason

"""Fetches checkpoints from a Hugging Face hub; the library is imported when the first one is asked for."""

import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from services.generation.downloads import CHECKPOINT_PATTERNS, DownloadStore, is_wanted
from services.generation.errors import CheckpointPathError
from services.runtime.errors import FailedPreconditionError, PermissionDeniedError, UnavailableError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 15.0


def fetch_from_hub(
    store: DownloadStore, repo_id: str, revision: str, patterns: Sequence[str] = CHECKPOINT_PATTERNS
) -> tuple[Path, str]:
    """Return the local folder of a repository at a revision, and the revision's commit.

    Without a network, a commit that the store holds, or a revision in the hub library's own cache, still works.

    Raises:
        CheckpointPathError: HUB_NOT_FOUND.
        PermissionDeniedError: HUB_ACCESS_DENIED.
        UnavailableError: HUB_UNREACHABLE.
        FailedPreconditionError: DOWNLOAD_PACKAGE_MISSING.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise FailedPreconditionError(
            "checkpoints of a hub need the package huggingface_hub", reason="DOWNLOAD_PACKAGE_MISSING"
        ) from error
    if _COMMIT.fullmatch(revision) and (found := store.find(_key(repo_id, revision, patterns))):
        return found, revision
    try:
        commit = str(hub.HfApi().model_info(repo_id, revision=revision, timeout=_TIMEOUT_SECONDS).sha or revision)
        if found := store.find(_key(repo_id, commit, patterns)):
            return found, commit
        with tempfile.TemporaryDirectory(dir=_made(store.folder), prefix=".partial-hub-") as folder:
            snapshot = _snapshot(hub, repo_id, commit, patterns, cache_dir=folder)
            return _kept(store, repo_id, commit, snapshot, patterns, taken_from=Path(folder)), commit
    except errors.GatedRepoError as error:
        raise PermissionDeniedError(
            f"the hub does not let this service read {repo_id}; set HF_TOKEN", reason="HUB_ACCESS_DENIED"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise CheckpointPathError(
            f"the hub has no repository {repo_id} with a revision {revision}, or does not show it to this service",
            reason="HUB_NOT_FOUND",
            field="hub",
        ) from error
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, OSError) as error:
        return _offline(hub, store, repo_id, revision, patterns, error)


def _offline(
    hub: Any, store: DownloadStore, repo_id: str, revision: str, patterns: Sequence[str], problem: Exception
) -> tuple[Path, str]:
    try:
        snapshot = _snapshot(hub, repo_id, revision, patterns, local_files_only=True)
    except (hub.errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UnavailableError(
            f"the hub cannot be reached ({type(problem).__name__}) and {repo_id}@{revision} is in no local cache",
            reason="HUB_UNREACHABLE",
        ) from error
    commit = snapshot.name if _COMMIT.fullmatch(snapshot.name) else revision
    found = store.find(_key(repo_id, commit, patterns))
    return found or _kept(store, repo_id, commit, snapshot, patterns), commit


def _snapshot(hub: Any, repo_id: str, revision: str, patterns: Sequence[str], **options: Any) -> Path:
    return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns), **options))


def _kept(
    store: DownloadStore,
    repo_id: str,
    commit: str,
    snapshot: Path,
    patterns: Sequence[str],
    *,
    taken_from: Path | None = None,
) -> Path:
    found = (each for each in snapshot.iterdir() if each.is_file() and is_wanted(each.name, patterns))
    files = {each.name: each.resolve() for each in found}
    if not files:
        raise CheckpointPathError(f"{repo_id} holds no file of a checkpoint", reason="HUB_NOT_FOUND", field="hub")
    return store.add(
        _key(repo_id, commit, patterns),
        {name: (file.stat().st_size, partial(_open, file)) for name, file in files.items()},
        taken_from=taken_from,
    )


def _open(file: Path) -> IO[bytes]:
    return file.open("rb")


def _key(repo_id: str, commit: str, patterns: Sequence[str]) -> str:
    # What was fetched whole before keys told the patterns is still found.
    return f"hub {repo_id} {commit}" + ("" if tuple(patterns) == CHECKPOINT_PATTERNS else f" {' '.join(patterns)}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

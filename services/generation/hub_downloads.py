"""Fetches checkpoints from a Hugging Face hub; the library is imported when the first one is asked for."""

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import IO, Any

from services.generation.downloads import DownloadStore, is_wanted
from services.generation.errors import CheckpointPathError
from services.inference.adapters import CONFIG_FILE
from services.inference.checkpoints import CONTENT_PATTERNS
from services.runtime.errors import FailedPreconditionError, PermissionDeniedError, UnavailableError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 15.0


def fetch_from_hub(store: DownloadStore, repo_id: str, revision: str) -> tuple[Path, str]:
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
    if _COMMIT.fullmatch(revision) and (found := store.find(_key(repo_id, revision))):
        return found, revision
    try:
        commit = str(hub.HfApi().model_info(repo_id, revision=revision, timeout=_TIMEOUT_SECONDS).sha or revision)
        if found := store.find(_key(repo_id, commit)):
            return found, commit
        with tempfile.TemporaryDirectory(dir=_made(store.folder), prefix=".partial-hub-") as folder:
            return _kept(store, repo_id, commit, _snapshot(hub, repo_id, commit, cache_dir=folder)), commit
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
        return _offline(hub, store, repo_id, revision, error)


def _offline(hub: Any, store: DownloadStore, repo_id: str, revision: str, problem: Exception) -> tuple[Path, str]:
    try:
        snapshot = _snapshot(hub, repo_id, revision, local_files_only=True)
    except (hub.errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UnavailableError(
            f"the hub cannot be reached ({type(problem).__name__}) and {repo_id}@{revision} is in no local cache",
            reason="HUB_UNREACHABLE",
        ) from error
    commit = snapshot.name if _COMMIT.fullmatch(snapshot.name) else revision
    return store.find(_key(repo_id, commit)) or _kept(store, repo_id, commit, snapshot), commit


def _snapshot(hub: Any, repo_id: str, revision: str, **options: Any) -> Path:
    patterns = [*CONTENT_PATTERNS, CONFIG_FILE]
    return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns, **options))


def _kept(store: DownloadStore, repo_id: str, commit: str, snapshot: Path) -> Path:
    files = {each.name: each.resolve() for each in snapshot.iterdir() if each.is_file() and is_wanted(each.name)}
    if not files:
        raise CheckpointPathError(f"{repo_id} holds no file of a checkpoint", reason="HUB_NOT_FOUND", field="hub")
    return store.add(
        _key(repo_id, commit),
        {name: (file.stat().st_size, partial(_open, file)) for name, file in files.items()},
    )


def _open(file: Path) -> IO[bytes]:
    return file.open("rb")


def _key(repo_id: str, commit: str) -> str:
    return f"hub {repo_id} {commit}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

"""Fetches checkpoints from whatever fsspec reads; the library is imported when the first URL comes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from services.generation.downloads import CHECKPOINT_PATTERNS, DownloadStore, is_wanted
from services.generation.errors import CheckpointPathError
from services.runtime.errors import FailedPreconditionError, FleetError, UnavailableError

# What tells that a remote file is another one now; file systems name it as they like.
_VERSION_KEYS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created", "md5Hash", "generation")


def fetch_from_url(store: DownloadStore, url: str, patterns: Sequence[str] = CHECKPOINT_PATTERNS) -> Path:
    """Return the local folder of the checkpoint or adapter behind a URL; one that did not change is not read again.

    Raises:
        CheckpointPathError: there is no such folder, or nothing in it.
        FailedPreconditionError: DOWNLOAD_PACKAGE_MISSING.
        UnavailableError: DOWNLOAD_FAILED.
    """
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url)
        listed = [
            each for each in files.ls(path, detail=True) if each["type"] == "file" and is_wanted(_base(each), patterns)
        ]
        if not listed:
            raise CheckpointPathError(f"{url} holds no file of a checkpoint", reason="CHECKPOINT_NOT_FOUND")
        key = json.dumps([url, sorted([_base(each), each["size"], _version(each)] for each in listed)])
        return store.find(key) or store.add(
            key, {_base(each): (int(each["size"]), _opener(files, each)) for each in listed}
        )
    except ImportError as error:
        raise FailedPreconditionError(
            f"{url} needs a package that is not installed here: {error}", reason="DOWNLOAD_PACKAGE_MISSING"
        ) from error
    except FleetError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointPathError(f"there is no folder {url}", reason="CHECKPOINT_NOT_FOUND") from error
    except Exception as error:  # each file system has exceptions of its own
        raise UnavailableError(
            f"{url} could not be fetched ({type(error).__name__}: {error}); try again", reason="DOWNLOAD_FAILED"
        ) from error


def _base(described: dict[str, Any]) -> str:
    return str(described["name"]).rstrip("/").rpartition("/")[2]


def _version(described: dict[str, Any]) -> str:
    return json.dumps([str(described[key]) for key in _VERSION_KEYS if key in described])


def _opener(files: Any, described: dict[str, Any]) -> Any:
    def opened() -> IO[bytes]:
        stream: IO[bytes] = files.open(described["name"], "rb")
        return stream

    return opened

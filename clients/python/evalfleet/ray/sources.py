"""Files of rows, wherever they are: Parquet and JSON lines in folders, buckets and data sets of a hub."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from evalfleet.errors import InvalidArgumentError, MissingExtraError, NotFoundError

_LINES = (".jsonl", ".ndjson", ".json")
_COMPRESSIONS = (".gz", ".bz2", ".zst", ".lz4")
_HUB = "hf://"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the input, as it was when the job was laid out.

    Attributes:
        uri: as ``open_filesystem`` takes it.
        size_bytes: of the whole file.
        changed: time of its last change, in ISO 8601; empty where nobody tells.
    """

    uri: str
    size_bytes: int
    changed: str

    @property
    def is_parquet(self) -> bool:
        """Whether it has rows in groups; else it has JSON lines."""
        return self.uri.endswith(".parquet")

    @property
    def is_compressed(self) -> bool:
        """Whether it can be read from its beginning only."""
        return self.uri.endswith(_COMPRESSIONS)


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path in it.

    Args:
        uri: a path of this machine, ``s3://…``, ``gs://…`` or another of pyarrow's, or ``hf://datasets/OWNER/NAME/…``.

    Raises:
        InvalidArgumentError: there is no such file system.
        MissingExtraError: the hub's library is not installed.
    """
    if uri.startswith(_HUB):
        try:
            from huggingface_hub import HfFileSystem
        except ImportError:
            raise MissingExtraError(
                "data sets of a hub need huggingface-hub: pip install huggingface-hub", reason="EXTRA_MISSING"
            ) from None
        return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem())), uri.removeprefix(_HUB)
    try:
        if "://" not in uri:
            return fs.LocalFileSystem(), uri
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidArgumentError(f"{uri} cannot be opened: {error}", reason="URI_INVALID") from None


def find_files(inputs: Iterable[str]) -> list[SourceFile]:
    """Return the files of rows that are named, or lie below the folders that are named, in a lasting order.

    Raises:
        NotFoundError: a name is neither, or there is no file of rows below it.
        InvalidArgumentError: a file has another format.
    """
    found: dict[str, SourceFile] = {}
    for each in inputs:
        filesystem, path = open_filesystem(each)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise NotFoundError(f"there is no {each}", reason="INPUT_NOT_FOUND")
        if info.type != fs.FileType.Directory:
            if not is_rows(path):
                known = ", ".join((".parquet", *_LINES))
                raise InvalidArgumentError(f"{each} is none of {known}", reason="FORMAT_UNKNOWN")
            found[each] = _source(each, info)
            continue
        below = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        files = [one for one in below if one.type == fs.FileType.File and is_rows(one.path)]
        if not files:
            raise NotFoundError(f"there is no file of rows in {each}", reason="INPUT_NOT_FOUND")
        for one in sorted(files, key=lambda one: str(one.path)):
            uri = each.rstrip("/") + one.path.removeprefix(path.rstrip("/"))
            found[uri] = _source(uri, one)
    return list(found.values())


def is_rows(path: str) -> bool:
    """Say whether a file's name is that of rows; hidden files and those below hidden folders are none."""
    parts = PurePosixPath(path)
    if parts.name.startswith((".", "_")):
        return False
    name = next((path.removesuffix(each) for each in _COMPRESSIONS if path.endswith(each)), path)
    return path.endswith(".parquet") or name.endswith(_LINES)


def _source(uri: str, info: Any) -> SourceFile:
    changed = info.mtime.isoformat() if info.mtime else ""
    return SourceFile(uri, info.size or 0, changed)

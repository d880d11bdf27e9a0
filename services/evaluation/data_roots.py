"""Finds data files: below the folders that they may lie in, and nowhere else, or in a hub repository."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from services.evaluation.errors import DataNotFoundError, DataPathError
from services.evaluation.source_specification import Hub

_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file: where it is now, and its name below its root, which is the same on every machine."""

    path: Path
    name: str


class HubClient(Protocol):
    """Where hub data sets come from."""

    def list_files(self, hub: Hub) -> Sequence[str]:
        """Paths of all files of the repository at its revision."""
        ...

    def download(self, hub: Hub, name: str) -> Path:
        """A local copy of one file."""
        ...


@dataclass(frozen=True, slots=True)
class DataRoots:
    """Where the rows of tasks may come from.

    Attributes:
        folders: searched in order for files of sources with ``root: data`` (setting EVALFLEET_DATA_DIR).
        hub: ``None`` forbids hub data sets.
    """

    folders: tuple[Path, ...] = ()
    hub: HubClient | None = None

    def find(self, pattern: str, folders: Sequence[Path]) -> tuple[DataFile, ...]:
        """Files that ``pattern`` names in the first of ``folders`` that has any, ordered by name.

        Raises:
            DataPathError: the pattern is absolute or has ``..``, or a link leads out of its folder.
        """
        check_relative(pattern)
        for folder in folders:
            root = folder.resolve()
            if not root.is_dir():
                continue
            paths = sorted(root.glob(pattern)) if _WILDCARDS.intersection(pattern) else [root / pattern]
            if found := tuple(_confined(path, root) for path in paths if path.is_file()):
                return found
        return ()

    def find_on_hub(self, hub: Hub, pattern: str) -> tuple[DataFile, ...]:
        """Files that ``pattern`` names in a hub repository, downloaded, ordered by name.

        Raises:
            DataPathError: the pattern is absolute or has ``..``.
            DataNotFoundError: hub data sets are switched off, or the hub does not answer.
        """
        check_relative(pattern)
        if self.hub is None:
            raise DataNotFoundError(f"the hub data set {hub.dataset} is needed, but hub data sets are switched off")
        names = sorted(name for name in self.hub.list_files(hub) if fnmatch.fnmatchcase(name, pattern))
        return tuple(DataFile(self.hub.download(hub, name), f"{hub.dataset}/{name}") for name in names)


def check_relative(pattern: str) -> None:
    """Refuse a path that could leave its folder.

    Raises:
        DataPathError: it is empty, absolute, has a ``..`` part, a backslash or a NUL.
    """
    path = PurePosixPath(pattern)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in pattern or "\0" in pattern:
        raise DataPathError(f"the data path {pattern!r} must be relative to its folder, without `..`")


def _confined(path: Path, root: Path) -> DataFile:
    resolved = path.resolve()
    if not resolved.is_relative_to(root):
        raise DataPathError(f"the data file {path.relative_to(root)} is a link that leads out of its folder")
    return DataFile(resolved, path.relative_to(root).as_posix())

"""What a fleet on one machine can be told."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evalfleet.endpoints import default_state_dir

from services.standalone.errors import BadOptionError

InferenceKind = Literal["triton", "local"]

DEFAULT_PORT_BASE = 8100
DEFAULT_LOG_BYTES = 64 * 1024**2
LEAST_LOG_BYTES = 16 * 1024
HOST = "127.0.0.1"
"""A fleet on one machine takes no calls from others: it asks nobody who they are."""


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """Where a fleet keeps its files, which ports it takes and what it may read; all paths are absolute.

    Attributes:
        state_dir: folder of logs, databases and caches.
        port_base: first of the fleet's ports; 0 takes a free block.
        inference: ``triton``, or ``local`` for the same engines in a process of ours.
        data_dirs: folders of benchmark data.
        checkpoint_roots: checkpoints may be loaded from below these folders alone.
        suite_dirs: further folders with suites and tasks.
        log_max_bytes: bound of each process's log with its older pieces.
    """

    state_dir: Path
    port_base: int
    inference: InferenceKind
    data_dirs: tuple[Path, ...]
    checkpoint_roots: tuple[Path, ...]
    suite_dirs: tuple[Path, ...]
    log_max_bytes: int = DEFAULT_LOG_BYTES

    @classmethod
    def collect(
        cls,
        *,
        state_dir: Path | None = None,
        port_base: int = DEFAULT_PORT_BASE,
        inference: InferenceKind = "triton",
        data_dirs: Sequence[Path] = (),
        checkpoint_roots: Sequence[Path] = (),
        suite_dirs: Sequence[Path] = (),
        environ: Mapping[str, str] | None = None,
    ) -> "FleetOptions":
        """Fill in what was not said from the environment, and that with the defaults.

        Raises:
            BadOptionError: a folder does not exist or its name cannot be handed on, or EVALFLEET_LOG_MAX_BYTES is no
                number of bytes.
        """
        environ = os.environ if environ is None else environ
        return cls(
            state_dir=Path(os.path.abspath(state_dir or default_state_dir(environ))),
            port_base=port_base,
            inference=inference,
            data_dirs=_folders(data_dirs or _listed(environ, "EVALFLEET_DATA_DIR"), "--data-dir"),
            checkpoint_roots=_folders(
                checkpoint_roots or _listed(environ, "EVALFLEET_CHECKPOINT_ROOTS") or (Path.cwd(),),
                "--checkpoint-root",
            ),
            suite_dirs=_folders(suite_dirs or _listed(environ, "EVALFLEET_SUITE_DIRS"), "--suite-dir"),
            log_max_bytes=_log_bytes(environ.get("EVALFLEET_LOG_MAX_BYTES", "")),
        )


def _log_bytes(told: str) -> int:
    if not told:
        return DEFAULT_LOG_BYTES
    if not told.isdecimal() or int(told) < LEAST_LOG_BYTES:
        raise BadOptionError(f"EVALFLEET_LOG_MAX_BYTES={told}: it must be a number of bytes from {LEAST_LOG_BYTES} on")
    return int(told)


def _listed(environ: Mapping[str, str], variable: str) -> tuple[Path, ...]:
    return tuple(Path(each) for each in environ.get(variable, "").split(os.pathsep) if each)


def _folders(given: Sequence[Path], option: str) -> tuple[Path, ...]:
    folders = tuple(Path(os.path.abspath(each)) for each in given)
    for folder in folders:
        if not folder.is_dir():
            raise BadOptionError(f"{option} {folder}: there is no such folder")
        if os.pathsep in str(folder):
            raise BadOptionError(
                f"{option} {folder}: a folder with {os.pathsep!r} in its name cannot be handed to the services; "
                "use another name or a symbolic link"
            )
    return folders

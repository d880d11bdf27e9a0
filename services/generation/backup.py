"""Save or restore the registry of models: ``python -m services.generation.backup --help``."""

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from services.generation.registry import SCHEMA_VERSION
from services.generation.registry_copies import COPY_NAME, RESTORED_NAME
from services.generation.settings import GenerationSettings
from services.runtime.entry import read_settings
from services.runtime.error_types import StartupError

_PROG = "python -m services.generation.backup"


def main(arguments: Sequence[str] | None = None) -> int:
    """Save or restore, in the state folder of the environment; 0: done, 1: not, and nothing was changed."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Write the registry of models, as it was after its last change, to standard output, beside the "
        "service that runs; or take one from standard input, for the service to use when it starts next.",
        epilog="exit codes: 0 done, 1 there is nothing to save, or what was given is no registry; nothing was changed",
    )
    parser.add_argument("--restore", action="store_true", help="read a registry from standard input")
    options = parser.parse_args(arguments)
    try:
        folder = read_settings(GenerationSettings).state_dir
        said = restore(sys.stdin.buffer, folder) if options.restore else save(folder, sys.stdout.buffer)
    except (StartupError, OSError) as error:
        print(f"generation: {error}", file=sys.stderr)
        return 1
    print(f"generation: {said}", file=sys.stderr)
    return 0


def save(folder: Path, output: BinaryIO) -> str:
    """Write the copy of the registry in a state folder; return what was done.

    Raises:
        StartupError: there is none.
    """
    file = folder / COPY_NAME
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise StartupError(f"there is no {file}: no generation service has begun there") from error
    output.write(content)
    output.flush()
    return f"saved {_count(file)} models"


def restore(source: BinaryIO, folder: Path) -> str:
    """Keep a registry for the service that starts next in a state folder; return what is to be done.

    Raises:
        StartupError: it is none that this release can use.
    """
    partial = folder / f"{RESTORED_NAME}.partial"
    partial.write_bytes(source.read())
    try:
        count = _count(partial)
        partial.replace(folder / RESTORED_NAME)
    finally:
        partial.unlink(missing_ok=True)
    return f"restart the service: it begins with the {count} models that were restored"


def _count(file: Path) -> int:
    """How many models there are in a registry.

    Raises:
        StartupError: it is damaged, no registry, or a newer release's.
    """
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (state,) = connection.execute("PRAGMA integrity_check").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (count,) = connection.execute("SELECT count(*) FROM models").fetchone()
    except sqlite3.Error as error:
        raise StartupError(f"this is no registry of models: {error}") from error
    if state != "ok":
        raise StartupError(f"this registry is damaged: {state}")
    if version > SCHEMA_VERSION:
        raise StartupError(f"this registry is a newer release's: version {version}, this one knows {SCHEMA_VERSION}")
    return int(count)


if __name__ == "__main__":
    sys.exit(main())

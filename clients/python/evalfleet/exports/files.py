"""Files that are there whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes its place when the block ends well, and goes else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def file_name(text: str) -> str:
    """Make a name that every file system takes."""
    kept = "".join(each if each.isascii() and (each.isalnum() or each in "-_.") else "-" for each in text)
    return kept.strip(".-")[:100] or "unnamed"

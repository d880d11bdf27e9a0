"""Makes a folder all at once."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from services.runtime.errors import AlreadyExistsError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to, which becomes ``folder`` at the end; a failure or an interruption leaves nothing.

    Raises:
        AlreadyExistsError: it is there already.
    """
    if folder.exists():
        raise AlreadyExistsError(f"{folder} is there already; choose another", metadata={"path": str(folder)})
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield made
        made.chmod(0o755)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise

"""The rubrics that a service has: those beside this file, and those of further folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from services.runtime.errors import StartupError, not_found
from services.scoring.judges.rubric import Rubric

BUNDLED_FOLDER: Final = Path(__file__).parent / "rubrics"


class RubricLibrary:
    """Finds rubrics by name."""

    def __init__(self, rubrics: Mapping[str, Rubric]) -> None:
        self._rubrics = dict(rubrics)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, ordered."""
        return tuple(sorted(self._rubrics))

    def find(self, name: str) -> Rubric:
        """Return a rubric.

        Raises:
            NotFoundError: RUBRIC_NOT_FOUND, with the nearest names.
        """
        if name not in self._rubrics:
            raise not_found("rubric", name, self._rubrics)
        return self._rubrics[name]


def open_library(folders: Sequence[Path] = ()) -> RubricLibrary:
    """Read the bundled rubrics and those of further folders, ``*.yaml`` each.

    Raises:
        StartupError: a folder or a file cannot be used, or a name is taken.
    """
    rubrics: dict[str, Rubric] = {}
    for folder in (BUNDLED_FOLDER, *folders):
        if not folder.is_dir():
            raise StartupError(f"EVALFLEET_RUBRIC_DIRS: there is no folder {folder}")
        for file in sorted(folder.glob("*.yaml")):
            rubric = read_rubric(file)
            if rubric.name in rubrics:
                raise StartupError(f"{file}: there is a rubric {rubric.name!r} already; give this one another name")
            rubrics[rubric.name] = rubric
    return RubricLibrary(rubrics)


def read_rubric(file: Path) -> Rubric:
    """Read one rubric.

    Raises:
        StartupError: it cannot be read, or is none; the message names the file and the field.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise StartupError(f"{file}: is no YAML file: {error}") from error
    try:
        return Rubric.model_validate(_with_tuples(content))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'rubric'}: {each['msg']}" for each in error.errors(include_url=False)
        ]
        raise StartupError(f"{file}: {'; '.join(problems)}") from error


def _with_tuples(content: Any) -> Any:
    # YAML has one kind of sequence, and the model is strict about it.
    if not isinstance(content, dict):
        return content
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}

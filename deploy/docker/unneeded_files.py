"""Takes out of installed distributions what no service reads."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path


class StalePatternError(Exception):
    """A line of the list finds nothing: the distribution has changed, and with it perhaps what is needed."""


@dataclass(frozen=True, slots=True)
class Unneeded:
    """A line of the list.

    Attributes:
        distribution: whose files they are.
        pattern: below site-packages.
        unless: another distribution that needs them; empty: none does.
    """

    distribution: str
    pattern: str
    unless: str = ""


def read_list(file: Path) -> list[Unneeded]:
    """Return the lines of a list such as unneeded_files.txt."""
    lines = (line.split() for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return [Unneeded(*(word for word in words if word != "unless")) for words in lines if words]


def remove_unneeded(site_packages: Path, unneeded: Iterable[Unneeded]) -> None:
    """Remove what is named of the distributions that are installed.

    Raises:
        StalePatternError: a pattern finds nothing.
    """
    installed = {each.name for each in distributions(path=[str(site_packages)])}
    for each in unneeded:
        if each.distribution not in installed or each.unless in installed:
            continue
        found = sorted(site_packages.glob(each.pattern))
        if not found:
            raise StalePatternError(f"{each.distribution} has no {each.pattern}")
        for path in found:
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()

"""Which extras of an installed distribution are complete."""

import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?")
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")


def missing_packages(name: str) -> dict[str, tuple[str, ...]]:
    """Return, by extra of a distribution, the packages that it names and that are not installed.

    Versions are pip's business and not looked at.

    Raises:
        PackageNotFoundError: the distribution itself is not installed.
    """
    extras = distribution(name).metadata.get_all("Provides-Extra") or []
    return {
        extra: tuple(sorted({each for each in _packages(name, extra, set()) if not _is_installed(each)}))
        for extra in extras
    }


def _packages(name: str, extra: str, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Yield what an extra needs; extras of other distributions of ours are looked into."""
    if (name, extra) in seen:
        return
    seen.add((name, extra))
    for requirement in distribution(name).requires or ():
        named, _, marker = requirement.partition(";")
        of = _EXTRA.search(marker)
        match = _NAME.match(named)
        if of is None or of[1] != extra or match is None:
            continue
        package, inner = match[1], match[2]
        yield package
        if inner and _is_installed(package):
            for each in inner.split(","):
                yield from _packages(package, each.strip(), seen)


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True

"""Versions of the libraries that decide scores beside a scorer's own code."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

MISSING = "missing"
"""The version of a library that is not installed; a scorer that needs it cannot judge."""


@cache
def library_version(name: str) -> str:
    """Return the version of an installed distribution, as it was when this was first asked."""
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING

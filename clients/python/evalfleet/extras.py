"""Packages that only some parts of this client need: said plainly where one is absent."""

import importlib.util

from evalfleet.errors import MissingExtraError


def needed(package: str, *, extra: str) -> None:
    """Make sure that a package is there.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"this needs {package}: pip install 'evalfleet[{extra}]'",
            reason="EXTRA_MISSING",
            metadata={"package": package, "extra": extra},
        )

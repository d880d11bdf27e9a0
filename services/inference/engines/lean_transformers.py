"""Imports transformers without scikit-learn and SciPy, which it takes along wherever they are installed.

They are for a way of decoding that the engines do not have and for detecting objects, and would cost each model's
process a sixth of the time that it takes to start, and 90 MB of memory. Import this before anything of transformers.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LEFT_OUT = ("sklearn", "scipy")


@contextmanager
def _as_if_absent(*packages: str) -> Iterator[None]:
    """Let imports find none of the packages that nobody has imported yet."""
    absent = [each for each in packages if each not in sys.modules]
    for package in absent:
        sys.modules[package] = None  # type: ignore[assignment] # how the import system is told that there is none
    try:
        yield
    finally:
        for package in absent:
            del sys.modules[package]


with _as_if_absent(*_LEFT_OUT):
    from transformers import GenerationMixin, PreTrainedModel  # noqa: F401 - what takes them along

"""The end of a process's log, as a person wants to read it when the process has failed."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_TAIL_BYTES = 64 * 1024
_LONGEST_LINE_CHARACTERS = 400


def log_tail(path: Path, *, lines: int = 15) -> str:
    """Return the last lines of a log; empty if there are none.

    Events (JSON) become sentences, tracebacks their last line, and what is repeated stands there once.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    readable = [_readable(line) for line in _without_tracebacks(text.splitlines())]
    return "\n".join(list(_without_repetitions(readable))[-lines:])


def _readable(line: str) -> str:
    try:
        event = json.loads(line)
        name = str(event.pop("event"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _cut(line)
    for key in ("time", "service", "level", "exception"):
        event.pop(key, None)
    return _cut(f"{name}: " + ", ".join(f"{key} {value}" for key, value in event.items()) if event else name)


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE_CHARACTERS else line[: _LONGEST_LINE_CHARACTERS - 1] + "…"


def _without_tracebacks(lines: Iterable[str]) -> Iterator[str]:
    inside = False
    for line in lines:
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif not inside or not line.startswith((" ", "\t")):
            inside = False
            yield line


def _without_repetitions(lines: Iterable[str]) -> Iterator[str]:
    before = None
    for line in lines:
        if line != before:
            yield line
        before = line

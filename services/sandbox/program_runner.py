"""Runs one program and its tests inside a sandbox; started there as a script, ahead of the program.

Standard library only, and nothing of this project: only this file and Python are in there. It reads from the file
descriptor that its first argument names and reports to the one that its second names, a line each:

    → four numbers (bytes of address space, of a file, processes, open files)      ← ``warm``
    → seconds of CPU time and the source's length, a line break, the source         ← ``loaded``
    → the tests' length and the secret's, a line break, the tests, the secret       ← ``ended KIND SECRET TEXT``

The secret stays in the pipe until the tests have run: no code that runs before can find it in memory. A program that
reads it out of the pipe itself was written against this very file.
"""

import builtins
import collections
import contextlib
import errno
import math
import os
import re
import resource
import sys
import types
import typing

_LONGEST_TEXT = 500
_PRELOADED = (collections, math, re, typing)


def main(jobs: int, reports: int) -> None:
    """Run the one program that comes, then wait to be ended."""
    link = _Link(jobs, reports)
    _limit(*link.numbers())
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    sys.argv = ["solution"]
    # Without site, which is not imported here, programs lack them.
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # their type is that of site's own objects
    link.report("warm")
    _judge(link, module.__dict__)
    # The sandbox is ended from outside: if this process ended by itself, others could go on for a moment.
    link.wait()


class _Link:
    """The two pipes; keeps the functions it needs, so that what the program does to ``os`` later changes nothing."""

    def __init__(self, jobs: int, reports: int) -> None:
        os.set_inheritable(jobs, False)
        os.set_inheritable(reports, False)
        self._jobs, self._reports = jobs, reports
        self._never, _ = os.pipe()
        self._read, self._write, self._exit = os.read, os.write, os._exit

    def report(self, line: str) -> None:
        self._write(self._reports, (line + "\n").encode("utf-8", "replace"))

    def numbers(self) -> list[int]:
        line = b""
        while not line.endswith(b"\n"):
            line += self._next(1)
        return [int(number) for number in line.split()]

    def text(self, size: int) -> str:
        read = b""
        while len(read) < size:
            read += self._next(size - len(read))
        return read.decode()

    def wait(self) -> None:
        while True:
            self._read(self._never, 1)

    def _next(self, size: int) -> bytes:
        return self._read(self._jobs, size) or self._exit(1)


def _judge(link: _Link, names: dict[str, object], run: typing.Any = exec, translate: typing.Any = compile) -> None:
    """Run the source and then the tests, and report how that went; the names are those of the program's module."""
    wrong, exited, failed = AssertionError, SystemExit, BaseException
    seconds, size = link.numbers()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    kind, secret, text = "syntax_error", "-", ""
    try:
        program = translate(link.text(size), "solution.py", "exec", 0, True)
        kind = "exception"
        run(program, names)
        link.report("loaded")
        size, secret_size = link.numbers()
        run(translate(link.text(size), "tests.py", "exec", 0, True), names)
        kind, secret = "passed", link.text(secret_size)
    except wrong as error:
        kind, text = "wrong", _described(error)
    except exited as error:
        kind, text = "exited_early", _described(error)
    except failed as error:
        kind, text = _limit_hit(error) or kind, _described(error)
    with contextlib.suppress(failed):
        sys.stdout.flush()
    link.report(f"ended {kind} {secret} {text}")


def _limit(memory: int, file: int, processes: int, files: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(kind, (most, most))
    for kind, most in ((resource.RLIMIT_MSGQUEUE, 0), (resource.RLIMIT_SIGPENDING, processes)):
        # gVisor's kernel has nothing that these limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))


def _limit_hit(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return "memory_limit"
    if isinstance(error, BlockingIOError) or "can't start new thread" in str(error):
        return "process_limit"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM):
        return "memory_limit"
    return None


def _described(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - the program's exception may do anything when it is shown
        text = type(error).__name__
    return " ".join(text.split()).removesuffix(":")[:_LONGEST_TEXT]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

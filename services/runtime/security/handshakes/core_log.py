"""Diverts what gRPC's core logs in this process to the relay, and has it log the steps of handshakes."""

import ctypes
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.runtime.error_types import StartupError
from services.runtime.security.handshakes.lines import TRACER
from services.runtime.security.settings import SecuritySettings

_ROOT: Final = Path(__file__).resolve().parents[4]
_RELAY: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from services.runtime.security.handshakes.relay import main; main(sys.argv[1:])"
)
_END_SECONDS: Final = 5.0
_PIPE_BYTES: Final = 1 << 20
"""What Linux lets everybody have: the log of some 200 handshakes."""
_UNBUFFERED: Final = 2
"""_IONBF of libc."""
_TRACE, _VERBOSITY = "GRPC_TRACE", "GRPC_VERBOSITY"
_WISHED: Final = "_EVALFLEET_GRPC_LOG"
_LEAST: Final = {"DEBUG": "I", "INFO": "I", "WARNING": "W", "NONE": "F"}


@dataclass(frozen=True, slots=True)
class WishedLog:
    """What an operator wants to see of gRPC's log: the variables as they were.

    Attributes:
        trace: GRPC_TRACE.
        verbosity: GRPC_VERBOSITY.
    """

    trace: str
    verbosity: str

    @property
    def least(self) -> str:
        """Severity of the least that is shown: ``I``, ``W``, ``E``, or ``F`` for crashes alone."""
        return _LEAST.get(self.verbosity.upper(), "E")

    @property
    def shows_handshakes(self) -> bool:
        """Whether the steps of handshakes are shown."""
        return bool({TRACER, "all"} & set(self.trace.split(",")))


class CoreLog:
    """What gRPC's core logs in this process goes through a relay until the end.

    The core writes to libc's ``stderr``, which glibc lets a program set like any variable; file descriptor 2 stays what
    it is, for Python, for its crash reports and for whatever this process starts. The pipe to the relay never blocks:
    what it cannot take at once is lost, which ``has_lost`` tells.

    Args:
        wished: what to show of it.

    Raises:
        StartupError: HANDSHAKES_NOT_WATCHED: the relay cannot be started.

    Attributes:
        reports: file descriptor of the relay's reports, which never blocks; ends when the relay does.
    """

    def __init__(self, wished: WishedLog) -> None:
        source, self._sink = os.pipe2(os.O_CLOEXEC)
        self.reports, reported = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.fcntl(self._sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(self._sink, False)
        os.set_blocking(self.reports, False)
        command = [sys.executable, "-I", "-S", "-c", _RELAY, str(_ROOT), wished.least, str(wished.shows_handshakes)]
        try:
            # In a session of its own: a terminal's ^C, or a supervisor's signal to the group, is for the service.
            self._relay = subprocess.Popen(command, stdin=source, stdout=reported, start_new_session=True)
        except OSError as error:
            raise _not_watched(f"{sys.executable} cannot be started: {error.strerror}") from error
        finally:
            os.close(source)
            os.close(reported)
        self._libc = libc = ctypes.CDLL(None)
        libc.fdopen.restype = ctypes.c_void_p
        self._stream = ctypes.c_void_p(libc.fdopen(self._sink, b"w"))
        libc.setvbuf(self._stream, None, _UNBUFFERED, ctypes.c_size_t(0))
        self._variable = ctypes.c_void_p.in_dll(libc, "stderr")
        self._before = self._variable.value
        self._variable.value = self._stream.value

    def has_lost(self) -> bool:
        """Whether lines were lost since this was asked last."""
        is_lost = bool(self._libc.ferror(self._stream))
        self._libc.clearerr(self._stream)
        return is_lost

    def end_input(self) -> None:
        """Have the core log to standard error again; the relay then reports what it has, and ends."""
        if self._variable.value == self._before:
            return
        self._variable.value = self._before
        # Not closed, since a thread of the core may be writing to it: its number must not become another file's.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._sink, inheritable=False)
        os.close(nowhere)

    def close(self) -> None:
        """Have the relay show everything, and end."""
        self.end_input()
        os.close(self.reports)
        try:
            self._relay.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._relay.kill()
            self._relay.wait()


@contextmanager
def diverted_core_log(settings: SecuritySettings) -> Iterator[CoreLog | None]:
    """Divert what gRPC's core logs, where callers speak TLS; ``None`` where they do not, or without glibc.

    Enter it before anything else is begun: where gRPC does not log handshakes yet, this process starts anew.

    Raises:
        StartupError: HANDSHAKES_NOT_WATCHED.
    """
    if (not settings.has_tls and not settings.public_port) or not _can_divert():
        yield None
    else:
        core_log = CoreLog(_trace_handshakes())
        try:
            yield core_log
        finally:
            core_log.close()


def _can_divert() -> bool:
    """Whether the C library of this process lets its ``stderr`` be set."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except ValueError:
        return False


def _trace_handshakes() -> WishedLog:
    """Have gRPC log the steps of handshakes, and return what is to be seen of its log.

    gRPC reads its variables when Python imports it, long before a service knows its settings: where they do not ask for
    it yet, this process begins anew with variables that do, and comes here again. They do not stay in the environment,
    for what this process starts.

    Raises:
        StartupError: HANDSHAKES_NOT_WATCHED.
    """
    told = os.environ.pop(_WISHED, None)
    if told is None:
        wished = WishedLog(os.environ.get(_TRACE, ""), os.environ.get(_VERBOSITY, ""))
        os.environ[_WISHED] = json.dumps([wished.trace, wished.verbosity])
        os.environ[_TRACE] = ",".join(filter(None, (wished.trace, TRACER)))
        os.environ[_VERBOSITY] = "DEBUG" if wished.verbosity.upper() == "DEBUG" else "INFO"
        try:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        except OSError as error:
            raise _not_watched(f"{sys.executable} cannot be started: {error.strerror}") from error
    wished = WishedLog(*json.loads(told))
    for name, value in ((_TRACE, wished.trace), (_VERBOSITY, wished.verbosity)):
        os.environ[name] = value
        if not value:
            del os.environ[name]
    return wished


def _not_watched(problem: str) -> StartupError:
    return StartupError(
        f"TLS handshakes that fail could not be recorded: {problem}; see docs/security.md",
        reason="HANDSHAKES_NOT_WATCHED",
    )

"""A worker process: judges what it is sent, one output after the other, until nobody sends any more."""

import ctypes
import resource
import signal
import socket
import sys
import traceback
from typing import BinaryIO

from services.scoring.pool.work import LENGTH, decode_work, encode_failure, encode_score

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


def run_worker(connection: socket.socket, memory_bytes: int) -> None:
    """Say that this process is ready, and judge until the other end of the connection is closed.

    Args:
        connection: brings the work and takes the answers.
        memory_bytes: address space that this process may have.
    """
    _prepare(memory_bytes)
    with connection, connection.makefile("rb") as work, connection.makefile("wb") as answers:
        _write(answers, b"")
        while (each := _read(work)) is not None:
            _write(answers, _judge(each))


def _prepare(memory_bytes: int) -> None:
    # A terminal's Ctrl-C reaches all processes: the service drains, and its workers with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _read(work: BinaryIO) -> bytes | None:
    head = work.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    [size] = LENGTH.unpack(head)
    return work.read(size)


def _write(answers: BinaryIO, answer: bytes) -> None:
    answers.write(LENGTH.pack(len(answer)) + answer)
    answers.flush()


def _judge(work: bytes) -> bytes:
    try:
        bound, item, output = decode_work(work)
        return encode_score(bound.score(item, output))
    except BaseException as error:  # noqa: BLE001 - whatever a scorer raises, an exit included, is its item's alone
        return encode_failure(error, traceback.format_exc())

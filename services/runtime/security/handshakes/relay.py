"""The relay: a process that reads what gRPC's core logs, passes on what an operator wants and reports handshakes.

It is a process of its own, so that the last words of a service that crashes get out, and so that no thread of gRPC ever
waits for Python: it imports the standard library alone, ends when the service does, and heeds no signal before.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

from services.runtime.security.handshakes.lines import (
    SEVERITIES,
    FailedHandshake,
    failed_handshake,
    is_handshake_step,
    severity,
)

REPORT_SECONDS: Final = 0.25
"""Between two reports: many of one kind from one host become one line with a count."""
_MOST_KINDS: Final = 200
_MOST_HELD_BYTES: Final = 1 << 20
_CHUNK_BYTES: Final = 4096
"""What a pipe that is ready takes without blocking (PIPE_BUF)."""


class Tally:
    """Failed handshakes that are not reported yet, by reason, listener and host."""

    def __init__(self) -> None:
        self._counts: dict[FailedHandshake, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, failed: FailedHandshake) -> None:
        """Count one; hosts beyond 200 at a time are counted together."""
        kind = failed._replace(peer=failed.peer.rpartition(":")[0])
        if kind not in self._counts and len(self._counts) >= _MOST_KINDS:
            kind = kind._replace(peer="")
        count, _ = self._counts.get(kind, (0, ""))
        self._counts[kind] = (count + 1, failed.peer if kind.peer else "")

    def report_to(self, handle: int) -> None:
        """Write a line of JSON for each kind, until a pipe is full."""
        for kind, (count, peer) in tuple(self._counts.items()):
            line = json.dumps({"reason": kind.reason, "listener": kind.listener, "peer": peer, "count": count})
            try:
                os.write(handle, f"{line}\n".encode())
            except BlockingIOError:
                return
            except OSError:
                """Nobody reads any more."""
            del self._counts[kind]


class Passed:
    """Lines that an operator sees; what their stream does not take for very long is counted.

    Args:
        handle: the stream, which is never waited for until the end.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._held = bytearray()
        self._left_out = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, line: bytes) -> None:
        """Take a line."""
        if len(self._held) > _MOST_HELD_BYTES:
            self._left_out += 1
            return
        self._held += line

    def write_some(self) -> None:
        """Write what the stream, which is ready, takes at once."""
        try:
            del self._held[: os.write(self._handle, self._held[:_CHUNK_BYTES])]
        except OSError:
            self._held.clear()
        if not self._held and self._left_out:
            self._held += b"%d lines of gRPC were left out\n" % self._left_out
            self._left_out = 0

    def write_all(self) -> None:
        """Write everything."""
        while self._held:
            self.write_some()


def relay(source: int, reports: int, shown: int, *, least: bytes, shows_handshakes: bool) -> None:
    """Read lines until their stream ends.

    Args:
        source: the stream of gRPC's core.
        reports: takes a line of JSON for failed handshakes: reason, listener, peer, count.
        shown: takes the lines for operators.
        least: severity that is shown at least: ``I``, ``W``, ``E`` or ``F``.
        shows_handshakes: whether the steps of handshakes are shown, too.
    """
    os.set_blocking(reports, False)
    tally, passed, rest, next_report = Tally(), Passed(shown), b"", 0.0
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    while True:
        if passed:
            waiting.register(shown, select.POLLOUT)
        timeout = max(0.0, next_report - time.monotonic()) if tally else None
        ready = dict(waiting.poll(None if timeout is None else timeout * 1000))
        if shown in ready:
            waiting.unregister(shown)
            passed.write_some()
        if source in ready:
            content = os.read(source, 1 << 16)
            *lines, rest = (rest + content).split(b"\n")
            if not content and rest:
                lines = [rest]
            for line in lines:
                _take(line, tally, passed, least, shows_handshakes)
            if not content:
                break
        if tally and time.monotonic() >= next_report:
            tally.report_to(reports)
            next_report = time.monotonic() + REPORT_SECONDS
    tally.report_to(reports)
    passed.write_all()


def _take(line: bytes, tally: Tally, passed: Passed, least: bytes, shows_handshakes: bool) -> None:
    failed = failed_handshake(line)
    if failed is not None:
        tally.add(failed)
    is_shown = shows_handshakes if is_handshake_step(line) else SEVERITIES.index(severity(line)) >= _rank(least)
    if is_shown:
        passed.add(line + b"\n")


def _rank(least: bytes) -> int:
    return SEVERITIES.index(least)


def main(arguments: Sequence[str]) -> None:
    """Relay standard input to standard error, with reports to standard output."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    least, shows_handshakes = arguments
    relay(0, 1, 2, least=least.encode(), shows_handshakes=shows_handshakes == "True")


if __name__ == "__main__":
    main(sys.argv[1:])

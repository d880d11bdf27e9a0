"""The audit log: who was refused, and who changed what the fleet serves."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from services.runtime.error_types import StartupError
from services.runtime.log_setup import timestamp

_MOST_AT_ONCE: Final = 200
_MOST_PER_SECOND: Final = 20
"""Of one kind of refusals: strangers must not fill the disk. The rest is counted."""

Refused = Literal["known", "unknown", "handshakes"]
"""Whose refusals: those of callers who had proved who they are, of all others, and of connections before any call."""


class _Allowance:
    """How many refusals of one kind may be written now.

    Args:
        event: says how many were left out, with the facts.
    """

    __slots__ = ("_allowed", "_refilled_seconds", "event", "facts", "left_out")

    def __init__(self, event: str, **facts: str) -> None:
        self.event, self.facts = event, facts
        self._allowed = float(_MOST_AT_ONCE)
        self._refilled_seconds = time.monotonic()
        self.left_out = 0

    def take(self, count: int) -> bool:
        now = time.monotonic()
        self._allowed = min(_MOST_AT_ONCE, self._allowed + (now - self._refilled_seconds) * _MOST_PER_SECOND)
        self._refilled_seconds = now
        if self._allowed < 1:
            self.left_out += count
            return False
        self._allowed -= 1
        return True


class AuditLog:
    """Appends events to a file, one JSON object a line; without a file to the service's log, refusals as warnings.

    A line is written at once and whole, also where several services have the same file, and the file may be moved away
    at any time. What is recorded never holds a token, a key or a text of callers.

    Args:
        path: the file.
        service: name of the service, for a file that several share.

    Raises:
        StartupError: AUDIT_FILE_NOT_WRITABLE.
    """

    def __init__(self, path: Path | None, *, service: str = "") -> None:
        self._path = path
        self._service = service
        self._log: Any = structlog.get_logger("evalfleet.audit")
        # Apart, so that strangers cannot drown what those do whom we know, nor connections what calls do.
        self._allowances: Mapping[Refused, _Allowance] = {
            "known": _Allowance("access_denied_more", callers="known"),
            "unknown": _Allowance("access_denied_more", callers="unknown"),
            "handshakes": _Allowance("tls_handshake_refused_more"),
        }
        if path is not None:
            try:
                self._append(path, "")
            except OSError as error:
                raise StartupError(
                    f"EVALFLEET_AUDIT_FILE={path} cannot be written: {error.strerror}", reason="AUDIT_FILE_NOT_WRITABLE"
                ) from error

    def record(self, event: str, **facts: Any) -> None:
        """Write an event; facts that are ``None`` or empty are left out."""
        self._write(self._log.info, event, facts)

    def _write(self, log: Any, event: str, facts: Mapping[str, Any]) -> None:
        told = {name: value for name, value in facts.items() if value not in (None, "")}
        if self._path is not None:
            line = {"time": timestamp(time.time()), "event": event, "service": self._service, **told}
            try:
                self._append(self._path, json.dumps(line, default=str) + "\n")
            except OSError as error:
                self._log.error("audit_file_not_written", path=str(self._path), problem=error.strerror)
            else:
                return
        log(event, audit=True, **told)

    def refused(self, event: str, *, of: Refused, count: int = 1, **facts: Any) -> None:
        """Write a refusal; of very many at once only how many there were.

        Args:
            event: its name.
            of: whoever was refused.
            count: of how many alike; told if there are several.
            facts: as for ``record``.
        """
        if self._allowances[of].take(count):
            self.flush()
            self._write(self._log.warning, event, {**facts, "count": count if count > 1 else None})

    def flush(self) -> None:
        """Write how many refusals were left out."""
        for allowance in self._allowances.values():
            if allowance.left_out:
                count, allowance.left_out = allowance.left_out, 0
                self._write(self._log.warning, allowance.event, {"count": count, **allowance.facts})

    def _append(self, path: Path, text: str) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

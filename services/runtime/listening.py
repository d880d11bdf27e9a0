"""Take ports, and tell others which: typed errors that say what to do when a port cannot be had."""

import errno
import os
import socket
import tempfile
from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry, start_http_server

from services.runtime.error_types import StartupError


def bind_port(
    server: grpc.aio.Server,
    host: str,
    port: int,
    *,
    credentials: grpc.ServerCredentials | None = None,
    setting: str = "EVALFLEET_PORT",
) -> str:
    """Bind ``server`` and return the address as ``host:port``, with the port the system chose if ``port`` is 0.

    Args:
        server: to be bound.
        host: address to listen on.
        port: gRPC port.
        credentials: for TLS; ``None``: plaintext.
        setting: what messages call the port.

    Raises:
        StartupError: the port is taken or not allowed, or the host is none of this machine.
    """
    _probe(host, port, setting=setting)
    shown = f"[{host}]" if ":" in host else host
    address = f"{shown}:{port}"
    try:
        bound = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise _cannot_listen(host, port, setting, str(error)) from error
    return f"{shown}:{bound}"


def write_ready_file(path: Path, address: str) -> None:
    """Write ``address`` in one step: a reader sees the whole line or no file.

    Raises:
        StartupError: the folder is missing or not writable.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w") as file:
            file.write(f"{address}\n")
        os.replace(temporary, path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def remove_ready_file(path: Path) -> None:
    """Remove what an earlier process left, so that nobody reads its address.

    Raises:
        StartupError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


class MetricsEndpoint:
    """Serves a registry over HTTP at ``/metrics`` until closed.

    Args:
        host: address to listen on.
        port: HTTP port.
        registry: what to serve.

    Raises:
        StartupError: the port cannot be had.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        _probe(host, port, setting="EVALFLEET_METRICS_PORT")
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)

    def close(self) -> None:
        """Stop listening; returns when the port is free again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _cannot_write(path: Path, error: OSError) -> StartupError:
    return StartupError(
        f"cannot write the address to EVALFLEET_READY_FILE={path}: {error.strerror}; name a file in a writable folder",
        reason="READY_FILE_NOT_WRITABLE",
        metadata={"path": str(path)},
    )


def _probe(host: str, port: int, *, setting: str) -> None:
    """Bind and let go, because gRPC reports a failed bind without its cause and prints its own lines to stderr."""
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartupError(
            f"cannot listen on host {host!r}: {error.strerror}; set EVALFLEET_HOST to an address of this machine",
            reason="HOST_NOT_FOUND",
            metadata={"host": host},
        ) from error
    family, kind, protocol, _, address = resolved[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise _cannot_listen(host, port, setting, error.strerror or "", error.errno) from error


def _cannot_listen(host: str, port: int, setting: str, cause: str, number: int | None = None) -> StartupError:
    advice, reason = f"set {setting} to another port", "PORT_NOT_AVAILABLE"
    if number == errno.EADDRINUSE:
        advice, reason = (
            f"stop the process that listens there, or set {setting} to another port (0: any free one)",
            "PORT_IN_USE",
        )
    elif number == errno.EACCES:
        advice, reason = f"set {setting} to a port of 1024 or above", "PORT_NOT_ALLOWED"
    elif number == errno.EADDRNOTAVAIL:
        advice, reason = "set EVALFLEET_HOST to an address of this machine", "HOST_NOT_LOCAL"
    return StartupError(
        f"cannot listen on {host}:{port}: {cause[:1].lower()}{cause[1:]}; {advice}",
        reason=reason,
        metadata={"host": host, "port": str(port)},
    )

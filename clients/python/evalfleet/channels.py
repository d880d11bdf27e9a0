"""Channels to the services of a fleet: kept alive, encrypted where told so, one channel a service."""

import os
from typing import Final

import grpc
import grpc.aio

from evalfleet.errors import ForkedProcessError
from evalfleet.security import Security, is_local

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
KEEPALIVE_SECONDS: Final = 60
KEEPALIVE_TIMEOUT_SECONDS: Final = 20
LONGEST_RECONNECT_PAUSE_MS: Final = 1000
RESOLUTION_PAUSE_MS: Final = 1000

FORK_VARIABLE: Final = "GRPC_ENABLE_FORK_SUPPORT"
# gRPC reads it once, when it is first imported.
_IS_FORKING_SUPPORTED: Final = os.environ.get(FORK_VARIABLE, "").lower() in ("1", "true", "yes", "on")

# gRPC's threads and locks belong to a process, not to a client: what a forked child may do depends on which channels
# were opened before, by anybody. Whether each process has opened one for an event loop, by process id.
_processes_with_channels: dict[int, bool] = {}

_PLAINTEXT: Final = Security()


def open_channel(target: str, security: Security = _PLAINTEXT) -> grpc.Channel:
    """Open a channel to ``target`` (``host:port`` or any gRPC target); nothing is sent before the first call.

    Raises:
        SecurityError: certificates or token cannot be used with this target.
        ForkedProcessError: gRPC cannot work in this process.
    """
    credentials = security.credentials(target)
    _enter_process(is_async=False)
    if credentials is None:
        return grpc.insecure_channel(target, options=_options(target, security))
    return grpc.secure_channel(target, credentials, options=_options(target, security))


def open_async_channel(target: str, security: Security = _PLAINTEXT) -> grpc.aio.Channel:
    """Open a channel for the running event loop; otherwise like ``open_channel``."""
    credentials = security.credentials(target)
    _enter_process(is_async=True)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=_options(target, security))
    return grpc.aio.secure_channel(target, credentials, options=_options(target, security))


def _enter_process(*, is_async: bool) -> None:
    """Note that this process has channels, or refuse to open any.

    A call in a child of a process that had used gRPC would wait for threads that a fork leaves behind, without end.
    """
    own = os.getpid()
    ancestors = [had_async for process, had_async in _processes_with_channels.items() if process != own]
    # The thread that serves event loops is always inside of gRPC, which then leaves its fork handlers out.
    if any(ancestors) or (ancestors and not _IS_FORKING_SUPPORTED):
        raise ForkedProcessError(
            "this process was forked after its parent had connected to a fleet, so gRPC cannot work in it: start "
            f"processes with `spawn`, connect only after the fork, or set {FORK_VARIABLE}=1 before Python starts, "
            "which helps where the parent used no AsyncFleet",
            reason="FORKED_PROCESS",
        )
    _processes_with_channels[own] = is_async or _processes_with_channels.get(own, False)


def _options(target: str, security: Security) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = [
        ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        # The library itself repeats calls; gRPC still resends what no service has seen.
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        # A service that is being restarted is back in seconds; the default waits up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_PAUSE_MS),
        # The replacements of replicas that are restarted in turn are met at once; the default waits half a minute.
        ("grpc.dns_min_time_between_resolutions_ms", RESOLUTION_PAUSE_MS),
    ]
    if security.server_name:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    if is_local(target):
        # gRPC would send even loopback connections to the proxy of $http_proxy.
        options.append(("grpc.enable_http_proxy", 0))
    return options

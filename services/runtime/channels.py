"""Channels to other services: balanced, kept alive, retried, bound to the deadline and ids of the call at hand."""

import json
from collections.abc import Iterable

import grpc

from services.runtime.carrying import CarryingChannel
from services.runtime.security.certificates import CertificateFiles, channel_credentials
from services.runtime.security.renewed_channel import RenewedChannel

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
KEEPALIVE_SECONDS = 30.0
KEEPALIVE_TIMEOUT_SECONDS = 10.0

_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    # Our servers always say with RESOURCE_EXHAUSTED when to come back, or not to: gRPC obeys that pushback.
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
# Stops retries when fewer than about one call in ten succeeds, so that they don't finish off a sick service.
_RETRY_THROTTLING = {"maxTokens": 10, "tokenRatio": 0.1}


def open_channel(
    target: str,
    *,
    retryable_methods: Iterable[str] = (),
    health_service: str | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    certificates: CertificateFiles | None = None,
) -> grpc.aio.Channel:
    """Open a channel whose calls inherit deadline and ids from the call being handled.

    A call gets ``min(timeout, remaining - 50 ms)`` and the request, run and item id as metadata.

    Args:
        target: a gRPC target: ``host:port``, ``dns:///name:port`` (all addresses in turn), ``unix:///path``.
        retryable_methods: idempotent unary methods, as ``package.Service/Method`` or ``package.Service`` for all of it.
        health_service: when given, replicas not SERVING for this service are left out (``""``: overall health).
        max_message_bytes: largest message in bytes, either way.
        certificates: what to show the service and whom to trust, renewed as they change; ``None``: plaintext.

    Calls raise what gRPC raises, and DeadlineExceededError when no time is left to make one.
    """
    options = [
        ("grpc.service_config", service_config(retryable_methods, health_service=health_service)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The default waits up to two minutes before it tries a restarted service again.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # The replacements of replicas that are restarted in turn are met at once; the default waits half a minute.
        ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ]
    if certificates is None:
        return CarryingChannel(grpc.aio.insecure_channel(target, options=options))
    return CarryingChannel(
        RenewedChannel(
            certificates, lambda shown: grpc.aio.secure_channel(target, channel_credentials(shown), options=options)
        )
    )


def service_config(retryable_methods: Iterable[str] = (), *, health_service: str | None = None) -> str:
    """Return gRPC's service config as JSON: round robin, retries for the named methods, optional health checks."""
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    names = [_method_name(method) for method in retryable_methods]
    if names:
        config["methodConfig"] = [{"name": names, "retryPolicy": _RETRY_POLICY}]
        config["retryThrottling"] = _RETRY_THROTTLING
    if health_service is not None:
        config["healthCheckConfig"] = {"serviceName": health_service}
    return json.dumps(config)


def _method_name(method: str) -> dict[str, str]:
    service, _, name = method.strip("/").partition("/")
    return {"service": service, "method": name} if name else {"service": service}

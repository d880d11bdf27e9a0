"""Channels to the services of a fleet: kept alive, retried where that is safe, one channel a service."""

import json
from collections.abc import Iterable

import grpc

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
KEEPALIVE_SECONDS = 60
KEEPALIVE_TIMEOUT_SECONDS = 20

# Idempotent: they read, they carry a request id, or repeating them changes nothing. DeleteModel is not: its
# repetition would answer NOT_FOUND. gRPC never retries a stream that has begun; Fleet.watch reconnects itself.
_IDEMPOTENT_METHODS = (
    "evalfleet.evaluation.v1.EvaluationService",
    "evalfleet.aggregation.v1.AggregationService/GetEstimates",
    "evalfleet.aggregation.v1.AggregationService/ListResults",
    "evalfleet.generation.v1.ModelService/CreateModel",
    "evalfleet.generation.v1.ModelService/GetModel",
    "evalfleet.generation.v1.ModelService/ListModels",
    "evalfleet.safety.v1.SafetyService",
)
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def open_channel(target: str) -> grpc.Channel:
    """Open a channel to ``target`` (``host:port`` or any gRPC target); nothing is sent before the first call."""
    options: list[tuple[str, int | str]] = [
        ("grpc.service_config", service_config(_IDEMPOTENT_METHODS)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        # A service that is being restarted is back in seconds; the default waits up to two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if target.startswith(("127.", "localhost", "[::1]")):
        # gRPC would send even loopback connections to the proxy of $http_proxy.
        options.append(("grpc.enable_http_proxy", 0))
    return grpc.insecure_channel(target, options=options)


def service_config(retryable_methods: Iterable[str]) -> str:
    """Return gRPC's service config as JSON: round robin, and retries on UNAVAILABLE for the named methods.

    Args:
        retryable_methods: ``package.Service/Method``, or ``package.Service`` for all of its methods.
    """
    names = []
    for each in retryable_methods:
        service, _, method = each.partition("/")
        names.append({"service": service, "method": method} if method else {"service": service})
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        }
    )

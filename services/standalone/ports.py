"""The block of ports that a fleet takes, checked before any process is started."""

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from services.runtime.free_ports import LOWEST_FREE, ephemeral_start
from services.standalone.errors import BadOptionError, PortTakenError
from services.standalone.options import HOST

SERVICE_OFFSETS = {"evaluation": 0, "generation": 1, "safety": 2, "scoring": 3, "aggregation": 4, "inference": 10}
METRICS_OFFSETS = {"inference": 11, "evaluation": 20, "generation": 21, "safety": 22, "scoring": 23, "aggregation": 24}
BLOCK_SIZE = 25
_LAST_PORT = 65535
_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class PortBlock:
    """The ports of one fleet, laid out from ``base``."""

    base: int

    def grpc(self, part: str) -> int:
        """Return the gRPC port of a part: ``evaluation``, …, ``inference``."""
        return self.base + SERVICE_OFFSETS[part]

    def metrics(self, part: str) -> int:
        """Return the port of a part's Prometheus metrics."""
        return self.base + METRICS_OFFSETS[part]

    def purposes(self) -> Iterator[tuple[int, str]]:
        """Yield every port with what it is for."""
        for part in SERVICE_OFFSETS:
            yield self.grpc(part), part
        for part in METRICS_OFFSETS:
            yield self.metrics(part), f"the metrics of {part}"


def take_ports(base: int) -> PortBlock:
    """Return the block at ``base``, or a free one for 0. The ports are free now; nothing reserves them.

    Raises:
        PortTakenError: a port of the block belongs to another process; names it.
        BadOptionError: the block does not fit below port 65536.
    """
    if base == 0:
        return _free_block()
    if not 1 <= base <= _LAST_PORT - BLOCK_SIZE + 1:
        raise BadOptionError(f"--port-base {base}: choose 1 to {_LAST_PORT - BLOCK_SIZE + 1}, or 0 for free ports")
    block = PortBlock(base)
    for port, purpose in block.purposes():
        obstacle = _obstacle(port)
        if obstacle:
            raise PortTakenError(port, purpose, obstacle)
    return block


def _free_block() -> PortBlock:
    # Below the ports of outgoing connections, which could take one between our look and the service's start.
    highest = max(ephemeral_start() - BLOCK_SIZE, LOWEST_FREE)
    for _ in range(_ATTEMPTS):
        # Random, so that two fleets which start together don't look at the same ports.
        block = PortBlock(random.randint(LOWEST_FREE, highest))
        if not any(_obstacle(port) for port, _ in block.purposes()):
            return block
    raise BadOptionError(f"no {BLOCK_SIZE} free ports from {LOWEST_FREE} to {highest}: choose some with --port-base")


def _obstacle(port: int) -> str | None:
    """Return why ``port`` cannot be listened on; ``None`` if it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As gRPC and Triton do: connections that linger after a stop are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return (error.strerror or str(error)).lower()
    return None

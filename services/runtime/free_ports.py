"""A port for a server that cannot choose one by itself, or that has to come back on the one it had."""

import errno
import random
import socket
from pathlib import Path
from typing import Final

LOWEST_FREE: Final = 10_240
_EPHEMERAL_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_START_ELSEWHERE: Final = 32_768
_ATTEMPTS: Final = 200
# Not the shared generator: two processes that were seeded alike would look at the same ports.
_CHANCE: Final = random.SystemRandom()


def ephemeral_start() -> int:
    """Return the first of the ports that the system hands to outgoing connections."""
    try:
        return int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_START_ELSEWHERE


def free_port(host: str) -> int:
    """Return a port of an IPv4 host that nobody listens on now; nothing reserves it.

    It lies below the ports of outgoing connections, where there is a free one: such a connection could take the port
    before it is listened on, or while its server restarts.
    """
    highest = ephemeral_start() - 1
    for _ in range(_ATTEMPTS if highest >= LOWEST_FREE else 0):
        port = _CHANCE.randint(LOWEST_FREE, highest)
        with socket.socket() as probe:
            # As gRPC and Triton do: connections that linger after a stop are no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
        return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])

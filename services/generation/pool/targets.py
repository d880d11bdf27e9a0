"""Where the Tritons of a pool are: the addresses behind what ``EVALFLEET_TRITON_TARGET`` names."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

_HOST_AND_PORT: Final = re.compile(r"(?:dns:(?:///)?)?(?P<host>\[[^\]]+\]|[^:/\[\]]+):(?P<port>[0-9]{1,5})")
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

Resolve = Callable[[str, int], Awaitable[frozenset[str]]]
"""Returns the addresses of a host, as ``address:port``. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the names stand for now.

    Attributes:
        present: addresses of members.
        doubtful: addresses of names that have no address any more: members only as long as they answer, for DNS leaves
            out a Triton that is too busy to say that it is ready, too.
    """

    present: frozenset[str]
    doubtful: frozenset[str] = frozenset()


class TritonTargets:
    """The targets of the settings: addresses, and names that are looked up.

    Args:
        text: ``host:port`` or ``dns:///host:port``, several separated by commas; whatever else gRPC takes for a target
            (``unix:``, ``ipv4:``) counts as an address.
        resolve: asks DNS.

    Raises:
        ValueError: it names none.
    """

    def __init__(self, text: str, resolve: Resolve | None = None) -> None:
        self._resolve = resolve or resolve_host
        self._targets = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
        if not self._targets:
            raise ValueError("name at least one target, as host:port")
        names = {each: _name_of(each) for each in self._targets}
        self._names = {each: name for each, name in names.items() if name is not None}
        self._found: dict[str, frozenset[str]] = {}
        self._log: Any = structlog.get_logger(__name__)

    @property
    def only_address(self) -> str | None:
        """The address, if it is one and nothing has to be looked up."""
        return self._targets[0] if len(self._targets) == 1 and not self._names else None

    async def look_up(self) -> Lookup:
        """Return what the names stand for now; of a name that cannot be looked up, what it stood for before."""
        present = {each for each in self._targets if each not in self._names}
        doubtful: set[str] = set()
        for target, (host, port) in self._names.items():
            try:
                found = await self._resolve(host, port)
            except (OSError, UnicodeError) as error:
                if not _says_gone(error):
                    self._log.warning("triton_lookup_failed", target=target, error=str(error))
                    present |= self._found.get(target, frozenset())
                    continue
                found = frozenset()
            if found:
                self._found[target] = found
                present |= found
            else:
                doubtful |= self._found.get(target, frozenset())
        return Lookup(frozenset(present), frozenset(doubtful - present))


async def resolve_host(host: str, port: int) -> frozenset[str]:
    """Ask the system's resolver; a server that has addresses of both families has one of them here."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family: dict[int, set[str]] = {}
    for family, _, _, _, address in found:
        by_family.setdefault(family, set()).add(str(address[0]))
    addresses = by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or set()
    return frozenset(_joined(each, port) for each in addresses)


def _name_of(target: str) -> tuple[str, int] | None:
    """Return host and port of a target that must be looked up."""
    match = _HOST_AND_PORT.fullmatch(target)
    if match is None:
        return None
    host = match["host"].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host, int(match["port"])
    return None


def _says_gone(error: Exception) -> bool:
    return isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

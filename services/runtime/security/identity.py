"""Who a caller turned out to be."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.runtime.callers import is_caller
from services.runtime.error_types import StartupError
from services.runtime.security.roles import SERVICE_ROLES, Role, read_roles

_ALTERNATIVE_NAMES: Final = "x509_subject_alternative_name"
_LONGEST_STEM: Final = 50
_ENDS_LIKE_OURS: Final = re.compile(r"-[0-9a-f]{12}\Z")


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody who proved who it is.

    Attributes:
        name: of the caller: quotas, budgets and cost go by it.
        roles: what it may do.
        ends_seconds: when its proof ends, since the epoch.
    """

    name: str
    roles: frozenset[Role]
    ends_seconds: float = math.inf

    @property
    def is_service(self) -> bool:
        """Whether it is a service of the fleet, which is believed on whose behalf it calls."""
        return Role.SERVICE in self.roles


class Peers:
    """Those who are known by their certificate alone.

    Args:
        told: ``EVALFLEET_TLS_PEERS``: names in certificates, each a service of the fleet, or ``name=role+role`` for
            somebody who has only these roles.

    Raises:
        StartupError: PEERS_INVALID.
    """

    def __init__(self, told: str) -> None:
        self._identities: dict[str, Identity] = {}
        for entry in filter(None, map(str.strip, told.split(","))):
            name, equals, roles = entry.partition("=")
            try:
                given = read_roles(roles.split("+")) if equals else SERVICE_ROLES
            except ValueError as error:
                raise StartupError(f"EVALFLEET_TLS_PEERS, {name}: {error}", reason="PEERS_INVALID") from error
            self._identities[name] = Identity(caller_name(name), given)
        self._names = frozenset(each.name for each in self._identities.values())

    def has(self, name: str) -> bool:
        """Whether a caller of this name is known by certificate."""
        return name in self._names

    def find(self, certificate: Mapping[str, Any]) -> Identity | None:
        """Return whose certificate a connection showed; ``None``: none, or that of somebody else.

        Args:
            certificate: gRPC's authentication context; it holds names only of a certificate that was verified.
        """
        for name in certificate.get(_ALTERNATIVE_NAMES, ()):
            found = self._identities.get(name.decode("utf-8", "replace"))
            if found is not None:
                return found
        return None


def caller_name(told: str) -> str:
    """Return the name under which somebody is a caller; two who are told apart elsewhere are so here.

    What a caller's name cannot hold is replaced, and a digest added: ``system.serviceaccount.ml.trainer-0f6ad20c71b8``.
    A name that ends like one of those gets a digest of its own, so that nobody can choose another's.
    """
    if is_caller(told) and not _ENDS_LIKE_OURS.search(told):
        return told
    digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{re.sub(r'[^a-zA-Z0-9_@/-]+', '.', told)[:_LONGEST_STEM]}-{digest}"

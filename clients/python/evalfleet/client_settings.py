"""How a client's calls are made: the same for blocking and async ones."""

import os
import uuid
from dataclasses import dataclass, field
from typing import Final

from evalfleet.hedging import Hedger, Hedging
from evalfleet.retrying import DEFAULT_RETRIES, Attempts, RetryPolicy, RetryThrottle
from evalfleet.security import Security, TokenSource
from evalfleet.tracing import current_trace

CALL_TIMEOUT_SECONDS: Final = 30.0
CALLER_KEY: Final = "evalfleet-caller"
"""Metadata entry by which a caller names itself; the services sum up cost by it."""
CALLER_VARIABLE: Final = "EVALFLEET_CALLER"
REQUEST_ID_KEY: Final = "x-request-id"
"""Metadata entry with the id of a call, under which the services' logs have it."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What all calls of a client have in common.

    Attributes:
        caller: who is asking; empty: nobody in particular.
        security: certificates and token.
        retries: how often idempotent calls are repeated.
        hedging: when slow calls are asked twice; ``None``: never.
    """

    caller: str = ""
    security: Security = field(default_factory=Security)
    retries: RetryPolicy = DEFAULT_RETRIES
    hedging: Hedging | None = None

    @classmethod
    def with_environment(
        cls,
        *,
        caller: str | None = None,
        security: Security | None = None,
        retries: RetryPolicy = DEFAULT_RETRIES,
        hedging: Hedging | None = None,
    ) -> "ClientSettings":
        """Take caller and security from the environment where they are not given."""
        return cls(
            caller=os.environ.get(CALLER_VARIABLE, "") if caller is None else caller,
            security=Security.from_environment() if security is None else security,
            retries=retries,
            hedging=hedging,
        )


class CallPlans:
    """What one connection knows about its calls: metadata, what is left of its retries, and its latencies."""

    def __init__(self, settings: ClientSettings) -> None:
        self._caller = ((CALLER_KEY, settings.caller),) if settings.caller else ()
        self._token = TokenSource(settings.security)
        self._retries = settings.retries
        self._throttle = RetryThrottle()
        self.hedger = Hedger(settings.hedging) if settings.hedging else None

    def metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call.

        Raises:
            SecurityError: the token cannot be read.
        """
        return (*self._caller, (REQUEST_ID_KEY, request_id), *current_trace(), *self._token.metadata())

    def attempts(self, *, timeout_seconds: float, is_idempotent: bool) -> Attempts:
        """Begin a call."""
        return Attempts(self._retries, self._throttle, timeout_seconds=timeout_seconds, is_idempotent=is_idempotent)


def new_request_id() -> str:
    """Return an id for a call, which all its tries have in common."""
    return uuid.uuid4().hex

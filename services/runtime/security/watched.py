"""What is followed of one call while its messages come and go."""

from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from services.runtime.error_types import FleetError
from services.runtime.security.quotas import Quotas
from services.runtime.security.request_counts import requests_in, requests_in_damaged

_SUBJECTS: Final = ("name", "model_name", "model_id", "checkpoint_path", "adapter_path", "runs", "dry_run")
"""Of requests that change something: what it is about. Texts of callers are not among it."""
_MOST_LISTED: Final = 20


class Watched:
    """One call.

    Attributes:
        name: whoever makes it, by its proof; empty before it is known.
        claimed: whom its metadata names, which proves nothing.
        quotas: what its messages count against; ``None``: nothing.
        facts: what its request, which was let in, is about; ``None``: that is not written down.
        told_trace: the traceparent that it came with, where its caller has no say in what is recorded; empty: none.
        is_refused: whether it was ended for who makes it, or for a quota.
    """

    __slots__ = ("_is_audited", "claimed", "facts", "is_refused", "name", "quotas", "told_trace")

    def __init__(self, *, is_audited: bool) -> None:
        self.name = ""
        self.claimed: str | None = None
        self.quotas: Quotas | None = None
        self._is_audited = is_audited
        self.facts: dict[str, Any] | None = None
        self.told_trace = ""
        self.is_refused = False

    def received(self, message: Any) -> None:
        """Count a message of the caller.

        Raises:
            ResourceExhaustedError: CALLER_QUOTA_EXHAUSTED.
        """
        if self.quotas is not None:
            self._count(self.quotas, requests_in(message))
        if self._is_audited:
            self.facts = _facts(message)

    def received_damaged(self, received: bytes) -> None:
        """Count a message that cannot be read; raises as ``received`` does."""
        if self.quotas is not None:
            self._count(self.quotas, requests_in_damaged(received))

    def _count(self, quotas: Quotas, requests: int) -> None:
        try:
            quotas.check(self.name)
            quotas.take(self.name, requests)
        except FleetError:
            self.is_refused = True
            raise


def _facts(message: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in _SUBJECTS:
        value = getattr(message, name, None)
        if isinstance(value, str | bool):
            facts[name] = value if isinstance(value, bool) else _without_secrets(value)
        elif value:
            facts[name] = [_without_secrets(str(each)) for each in value[:_MOST_LISTED]]
    return facts


def _without_secrets(text: str) -> str:
    """Return a name or an address without what may let somebody in: user, password and query of a URL."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return ""
    if not parts.scheme or not parts.netloc:
        return text
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

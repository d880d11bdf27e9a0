"""Stands before every handler: who calls, may it, and has it any quota left; and writes down refusals and changes."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.runtime.callers import is_caller
from services.runtime.error_types import FleetError, PermissionDeniedError, UnauthenticatedError
from services.runtime.expiries import Expiries
from services.runtime.interceptors.call import HandledCall
from services.runtime.security.audit import AuditLog
from services.runtime.security.callers import Callers, open_callers
from services.runtime.security.identity import Identity
from services.runtime.security.quotas import Quotas
from services.runtime.security.roles import METHOD_ROLES, OPEN
from services.runtime.security.settings import SecuritySettings
from services.runtime.security.watched import Watched
from services.runtime.spending import open_account
from services.runtime.telemetry.spans import sample_by_own_rate

AUDITED_METHODS: Final = {
    "evalfleet.generation.v1.ModelService/CreateModel": "model_load_requested",
    "evalfleet.generation.v1.ModelService/DeleteModel": "model_deleted",
    "evalfleet.aggregation.v1.AggregationService/PruneLedger": "ledger_pruned",
    "inference.GRPCInferenceService/RepositoryModelLoad": "engine_model_load_requested",
    "inference.GRPCInferenceService/RepositoryModelUnload": "engine_model_unload_requested",
}
"""Methods whose calls are written down when they end, under these names: what they change all callers see."""
UNKNOWN_METHOD: Final = "other"
"""What calls of methods that a server has not are summed up under."""


class Guard(Collector):
    """Lets calls in, one server's; register it in the process's CollectorRegistry.

    Args:
        callers: who may call; ``None``: anybody may do anything, for a service that only its own machine can reach.
        quotas: of callers from outside; ``None``: unlimited.
        audit: where it is written down.
    """

    def __init__(self, callers: Callers | None, quotas: Quotas | None, audit: AuditLog) -> None:
        self._callers = callers
        self._quotas = quotas
        self._audit = audit
        self._refusals: Counter[str] = Counter()
        self._expiries: Expiries[HandledCall] = Expiries(_end_expired)

    @property
    def identifies(self) -> bool:
        """Whether callers have to prove who they are."""
        return self._callers is not None

    def watches(self, method: str) -> bool:
        """Whether calls of a method (``package.Service/Method``) need ``admit``, ``received`` and ``finish``."""
        if method in METHOD_ROLES and METHOD_ROLES[method] is OPEN:
            return False
        return self._callers is not None or method in AUDITED_METHODS

    async def admit(self, call: HandledCall) -> None:
        """Let a call in, under the name of whoever proved to make it.

        Raises:
            UnauthenticatedError: nobody whom we know makes it.
            PermissionDeniedError: ROLE_MISSING: whoever makes it may not.
            ResourceExhaustedError: CALLER_QUOTA_EXHAUSTED.
            UnavailableError: TOKEN_KEYS_UNAVAILABLE.
        """
        call.watched = watched = Watched(is_audited=call.rules.method in AUDITED_METHODS)
        watched.claimed = call.scope.ids.caller
        if self._callers is None:
            return
        # Until there is a proof nobody calls: logs and spans of a refused call name no one else.
        call.scope.set_caller(None)
        try:
            await self._check(call, watched, self._callers)
        except FleetError:
            watched.is_refused = True
            raise

    async def _check(self, call: HandledCall, watched: Watched, callers: Callers) -> None:
        context = call.context
        identity = await callers.identify(context.auth_context(), context.invocation_metadata() or ())
        watched.name = identity.name
        if not identity.is_service:
            # What is recorded costs the fleet, and whoever keeps its traces: that is not for callers to decide.
            watched.told_trace = call.scope.leave_trace()
            sample_by_own_rate()
        # A service is believed for whom it calls; nobody else is.
        claimed = watched.claimed
        is_believed = identity.is_service and claimed is not None and is_caller(claimed)
        call.scope.set_caller(claimed if is_believed and claimed else identity.name)
        _check_role(identity, call.rules.method)
        if self._quotas is not None and not identity.is_service:
            watched.quotas = self._quotas
            open_account(partial(self._quotas.book, identity.name))
            self._quotas.check(identity.name)
        if identity.ends_seconds < math.inf:
            # A stream ends with the proof that opened it.
            self._expiries.watch(call, time.monotonic() + max(0.0, identity.ends_seconds - time.time()))

    def finish(self, call: HandledCall) -> None:
        """Write down how a call ended, if that is of interest."""
        self._expiries.forget(call)
        watched, error = call.watched, call.error
        if watched is None:
            return
        reason = error.reason if error is not None else None
        facts: dict[str, Any] = {**_about(call, watched), "code": call.code.name, "reason": reason}
        if reason is not None and watched.is_refused:
            self._refusals[reason] += 1
            self._audit.refused("access_denied", of="known" if watched.name else "unknown", **facts)
        if watched.facts is not None:
            # Also of a call whose proof expired meanwhile: what it had begun may be done.
            self._audit.record(AUDITED_METHODS[call.rules.method], **facts, **watched.facts)

    async def close(self) -> None:
        """Write what is still to be written, and ask issuers nothing more."""
        self._expiries.close()
        self._audit.flush()
        if self._callers is not None:
            await self._callers.close()

    def collect(self) -> Iterator[Metric]:
        """Yield the metric family for a scrape."""
        refused = CounterMetricFamily(
            "evalfleet_calls_refused", "Calls refused for who made them, or their quota.", labels=["reason"]
        )
        for reason, count in tuple(self._refusals.items()):
            refused.add_metric([reason], count)
        yield refused


def _check_role(identity: Identity, method: str) -> None:
    """Refuse what a role is missing for; a method that is in no table is for nobody.

    Raises:
        PermissionDeniedError: ROLE_MISSING.
    """
    if method == UNKNOWN_METHOD:
        return
    role = METHOD_ROLES.get(method)
    if role is None or role not in identity.roles:
        needed = "none" if role is None else role.value
        has = ", ".join(sorted(identity.roles)) or "none"
        raise PermissionDeniedError(
            f"{identity.name} may not call {method}, which needs the role {needed}; its roles: {has}",
            reason="ROLE_MISSING",
            metadata={"caller": identity.name, "method": method, "role": needed},
        )


def _end_expired(call: HandledCall) -> None:
    if call.watched is not None:
        call.watched.is_refused = True
    call.interrupt(UnauthenticatedError("the token has expired; get a new one and call again", reason="TOKEN_EXPIRED"))


def _about(call: HandledCall, watched: Watched) -> dict[str, str | None]:
    ids = call.scope.ids
    return {
        "method": call.rules.method,
        "caller": ids.caller if watched.name else None,
        "claimed_caller": None if watched.name else watched.claimed,
        "by": watched.name if watched.name != ids.caller else None,
        "peer": call.context.peer(),
        "request_id": ids.request_id,
    }


def open_guard(settings: SecuritySettings, *, service: str) -> Guard:
    """Return the guard that the settings ask for.

    Raises:
        StartupError: a file, an address or a name of them cannot be used.
    """
    callers = open_callers(settings) if settings.checks_callers else None
    quotas = None if settings.caller_quotas is None else Quotas(settings.caller_quotas)
    return Guard(callers, quotas, AuditLog(settings.audit_file, service=service))

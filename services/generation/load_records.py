"""Writes down what came of loading models, and for whom: the call that asked may have ended long before."""

from services.generation.models import ModelRecord
from services.runtime.calls import current_scope
from services.runtime.errors import FleetError
from services.runtime.security.audit import AuditLog


class LoadRecords:
    """Records of the audit log.

    Args:
        audit: the log.
        callers_are_proven: whether the name of a call's caller was proved, or only claimed.
    """

    def __init__(self, audit: AuditLog, *, callers_are_proven: bool) -> None:
        self._audit = audit
        self._caller_fact = "caller" if callers_are_proven else "claimed_caller"

    def loaded(self, record: ModelRecord) -> None:
        """Record that a model takes requests."""
        self._record("model_loaded", record)

    def failed(self, record: ModelRecord, error: FleetError) -> None:
        """Record that a model cannot be loaded."""
        self._record("model_load_failed", record, reason=error.reason)

    def _record(self, event: str, record: ModelRecord, **facts: str) -> None:
        # Of the call that began the load; nobody's where the service loads again what was lost.
        ids = current_scope().ids
        self._audit.record(
            event,
            model_id=record.model_id,
            digest=record.digest,
            request_id=ids.request_id,
            **{self._caller_fact: ids.caller},
            **facts,
        )

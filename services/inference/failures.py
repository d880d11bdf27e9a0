"""Failures of the model processes and the compact form in which they cross Triton as one error message.

Triton carries an error as text only. A failure therefore travels as ``evalfleet-failure:{json}`` inside that text;
whatever Triton wraps around it (which model, which version, a traceback of the stub) is ignored by the reader.
This module needs nothing but the standard library, because the engines must run where gRPC is not installed.
"""

import json
from collections.abc import Mapping
from typing import Final

MARKER: Final = "evalfleet-failure:"


class InferenceFailure(Exception):
    """A typed failure of an engine, a model repository entry or a checkpoint.

    Attributes:
        code: name of a gRPC status code (``INVALID_ARGUMENT``).
        reason: UPPER_SNAKE and stable; callers branch on it.
        message: for people; says what to do.
        metadata: the dynamic values of the message, for machines.
        field: the request field at fault, if it is one field's fault.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        code: str = "INVALID_ARGUMENT",
        metadata: Mapping[str, str] | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.field = field


def encode_failure(failure: InferenceFailure) -> str:
    """Write a failure as the text that goes into a TritonError."""
    body: dict[str, object] = {"code": failure.code, "reason": failure.reason, "message": failure.message}
    if failure.metadata:
        body["metadata"] = dict(failure.metadata)
    if failure.field is not None:
        body["field"] = failure.field
    return MARKER + json.dumps(body, ensure_ascii=True, separators=(",", ":"))


def decode_failure(text: str) -> InferenceFailure | None:
    """Find a failure inside an error text; None where there is none or it is damaged."""
    start = text.find(MARKER)
    if start < 0:
        return None
    try:
        body, _ = json.JSONDecoder().raw_decode(text, start + len(MARKER))
    except json.JSONDecodeError:
        return None
    if not isinstance(body, dict) or not all(isinstance(body.get(key), str) for key in ("code", "reason", "message")):
        return None
    metadata = body.get("metadata")
    field = body.get("field")
    return InferenceFailure(
        body["message"],
        reason=body["reason"],
        code=body["code"],
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else None,
        field=field if isinstance(field, str) else None,
    )

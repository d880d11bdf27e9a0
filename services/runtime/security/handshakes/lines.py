"""Reads the log lines of gRPC's core; the standard library alone, since the relay starts without anything else."""

import re
from typing import Final, NamedTuple

TRACER: Final = "handshaker"
"""Of gRPC: one line for each step of each handshake; the last of one that failed says why, from where and to where."""
SEVERITIES: Final = b"IWEF"

_LINE: Final = re.compile(rb"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ([\w.]+):\d+\] ")
_FAILED: Final = re.compile(rb"CallNextHandshakerLocked: error=(?!OK )(.+?) shutdown=\w+ index=\d+, args=\{(.*)")
_OF_SERVER: Final = b"grpc.internal.server_credentials="
"""Only handshakes of callers have it; those of this process's own channels have a target."""
_ADDRESS: Final = rb"grpc\.internal\.endpoint_%s_address=([^,}\s]+)"
_LISTENER: Final = re.compile(_ADDRESS % b"local")
_PEER: Final = re.compile(_ADDRESS % b"peer")

NO_CLIENT_CERTIFICATE: Final = "NO_CLIENT_CERTIFICATE"
UNKNOWN_AUTHORITY: Final = "UNKNOWN_AUTHORITY"
CERTIFICATE_EXPIRED: Final = "CERTIFICATE_EXPIRED"
CERTIFICATE_NOT_YET_VALID: Final = "CERTIFICATE_NOT_YET_VALID"
CERTIFICATE_UNUSABLE: Final = "CERTIFICATE_UNUSABLE"
NOT_TLS: Final = "NOT_TLS"
HANDSHAKE_FAILED: Final = "HANDSHAKE_FAILED"
REFUSED_BY_CALLER: Final = "REFUSED_BY_CALLER"
ABANDONED: Final = "ABANDONED"

_REASONS: Final = (
    (NO_CLIENT_CERTIFICATE, rb"PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    (CERTIFICATE_EXPIRED, rb"certificate has expired"),
    (CERTIFICATE_NOT_YET_VALID, rb"certificate is not yet valid"),
    (UNKNOWN_AUTHORITY, rb"issuer certificate|self.signed certificate|verify the first|certificate signature failure"),
    (CERTIFICATE_UNUSABLE, rb"CERTIFICATE_VERIFY_FAILED|(?i:certificate).*(?:DECODE|INVALID)"),
    (NOT_TLS, rb"WRONG_VERSION_NUMBER|HTTPS?_(?:PROXY_)?REQUEST"),
    (REFUSED_BY_CALLER, rb"_ALERT_"),
    (ABANDONED, rb"Handshake (?:read|write) failed|timed out|[Ss]hutdown"),
)
"""The first that fits; of BoringSSL's names and texts, in which nothing of a caller's is quoted."""
_PATTERNS: Final = tuple((reason, re.compile(pattern)) for reason, pattern in _REASONS)


class FailedHandshake(NamedTuple):
    """One that a caller began.

    Attributes:
        reason: one of this module's.
        listener: address at which it came in, as gRPC writes it: ``ipv4:10.0.0.7:50051``.
        peer: address from which it came.
    """

    reason: str
    listener: str
    peer: str


def failed_handshake(line: bytes) -> FailedHandshake | None:
    """Return the handshake of a caller whose failure a line tells; ``None``: it tells of something else."""
    found = _FAILED.search(line)
    if found is None or _OF_SERVER not in found[2] or not is_handshake_step(line):
        return None
    return FailedHandshake(_reason(found[1]), _address(_LISTENER, found[2]), _address(_PEER, found[2]))


def is_handshake_step(line: bytes) -> bool:
    """Whether a line is one of the tracer's."""
    found = _LINE.match(line)
    if found is None:
        return False
    return found[2] == b"handshaker.cc" or line.startswith(b"handshake manager ", found.end())


def severity(line: bytes) -> bytes:
    """Return ``I``, ``W``, ``E`` or ``F``; ``F`` for what has none: a crash, say, which nobody may miss."""
    found = _LINE.match(line)
    return b"F" if found is None else found[1]


def _reason(error: bytes) -> str:
    return next((reason for reason, pattern in _PATTERNS if pattern.search(error)), HANDSHAKE_FAILED)


def _address(pattern: re.Pattern[bytes], arguments: bytes) -> str:
    found = pattern.search(arguments)
    return "" if found is None else found[1].decode("ascii", "replace")

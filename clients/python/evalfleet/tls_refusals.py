"""Why a connection came to nothing for its certificates: gRPC says it of the service's, and nothing of the client's."""

import re
import socket
import ssl
from collections.abc import Mapping
from typing import Final

import grpc

from evalfleet.errors import EvalFleetError, UnavailableError
from evalfleet.security import (
    CA_VARIABLE,
    CERTIFICATE_VARIABLE,
    KEY_VARIABLE,
    SERVER_NAME_VARIABLE,
    SYSTEM_ROOTS,
    Security,
    host_and_port,
)

TLS_REFUSED: Final = "TLS_REFUSED"
LOOK_SECONDS: Final = 5.0
"""Longest that a connection is looked into."""
_PROTOCOL: Final = "h2"
_CLOSED_EARLY: Final = re.compile(r"(?:failed to connect|all backends failing).*(?:Socket closed|reset)", re.IGNORECASE)

_CAUSES: Final[Mapping[str, tuple[str, str]]] = {
    "SERVER_NAME_WRONG": (
        r"Hostname Verification Check failed|is not in peer certificate",
        f"its certificate is for another name: call it by one of its names, or set {SERVER_NAME_VARIABLE}",
    ),
    "SERVER_CERTIFICATE_EXPIRED": (r"certificate has expired", "its certificate has expired; look at both clocks, too"),
    "SERVER_CERTIFICATE_NOT_YET_VALID": (
        r"certificate is not yet valid",
        "its certificate begins later; look at both clocks",
    ),
    "SERVER_AUTHORITY_UNKNOWN": (
        r"issuer certificate|self.signed certificate|verify the first|certificate signature failure",
        f"its certificate is not signed by whom {CA_VARIABLE} names",
    ),
    "SERVER_SPEAKS_PLAINTEXT": (
        r"WRONG_VERSION_NUMBER",
        f"it does not speak TLS: it is another port, or unset {CA_VARIABLE}",
    ),
    "SERVER_CERTIFICATE_UNUSABLE": (r"CERTIFICATE_VERIFY_FAILED", "its certificate cannot be used"),
}
"""By cause: what gRPC's text has, and what to do. The first that fits counts."""


def refusal(raised: grpc.RpcError, service: str, target: str) -> EvalFleetError | None:
    """Return the error of a connection that came to nothing for the service's certificate; ``None``: it did not."""
    return _refusal(raised.details() or "", service, target) if raised.code() is grpc.StatusCode.UNAVAILABLE else None


def may_be_the_clients(raised: grpc.RpcError) -> bool:
    """Whether a service that is there may have refused the client's certificate: ``found_refusal`` then looks."""
    return raised.code() is grpc.StatusCode.UNAVAILABLE and bool(_CLOSED_EARLY.search(raised.details() or ""))


def found_refusal(service: str, target: str, security: Security) -> EvalFleetError | None:
    """Connect once more, by Python's own TLS, and return that the service refuses the client's certificate, if it does.

    In TLS 1.3 a client's part of the handshake is done before a server looks at its certificate. A gRPC server that
    does not like it closes the connection without a word; one that does begins to talk HTTP/2. Which of the client's
    faults it was stands in the service's audit log alone.
    """
    address = host_and_port(target)
    if address is None or not security.ca_file or not _closes_after_handshake(address, security):
        return None
    if security.certificate_file:
        cause = "CLIENT_CERTIFICATE_REFUSED"
        advice = f"it refuses {CERTIFICATE_VARIABLE}, as expired or of an unknown authority: its audit log says which"
    else:
        cause = "CLIENT_CERTIFICATE_MISSING"
        advice = f"it asks for a certificate: set {CERTIFICATE_VARIABLE} and {KEY_VARIABLE}, or call its public port"
    return _error(cause, advice, service, target)


def _closes_after_handshake(address: tuple[str, int], security: Security) -> bool:
    encrypted: ssl.SSLSocket | None = None
    try:
        context = ssl.create_default_context(cafile=None if security.ca_file == SYSTEM_ROOTS else security.ca_file)
        context.set_alpn_protocols([_PROTOCOL])
        if security.certificate_file:
            context.load_cert_chain(security.certificate_file, security.key_file)
        with (
            socket.create_connection(address, timeout=LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=security.server_name or address[0]) as encrypted,
        ):
            return not encrypted.recv(1)
    except TimeoutError:
        return False
    except OSError:
        # Reset, or an alert, which other servers send.
        return encrypted is not None


def _refusal(details: str, service: str, target: str) -> EvalFleetError | None:
    for cause, (pattern, advice) in _CAUSES.items():
        if re.search(pattern, details):
            error = _error(cause, advice, service, target)
            # It is certain, and certificates do not change within the time of a call.
            error.is_retry_refused = True
            return error
    return None


def _error(cause: str, advice: str, service: str, target: str) -> EvalFleetError:
    error = UnavailableError(
        f"the {service} service at {target} was not connected: {advice}",
        reason=TLS_REFUSED,
        metadata={"cause": cause},
    )
    error.is_unanswered = True
    return error

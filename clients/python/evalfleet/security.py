"""How a client and a fleet trust each other: certificates and a token, said explicitly or in the environment."""

import ipaddress
import os
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from evalfleet.errors import SecurityError

CA_VARIABLE: Final = "EVALFLEET_TLS_CA"
CERTIFICATE_VARIABLE: Final = "EVALFLEET_TLS_CERT"
KEY_VARIABLE: Final = "EVALFLEET_TLS_KEY"
SERVER_NAME_VARIABLE: Final = "EVALFLEET_TLS_SERVER_NAME"
TOKEN_VARIABLE: Final = "EVALFLEET_TOKEN"
TOKEN_FILE_VARIABLE: Final = "EVALFLEET_TOKEN_FILE"
SYSTEM_ROOTS: Final = "system"
RETIREMENT_SECONDS: Final = 600.0
"""How long calls may go on over a channel whose certificates were replaced: longer than services let any live."""
_TOKEN_KEY: Final = "authorization"
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Security:
    """What a client shows and whom it trusts; with nothing given, connections are in plaintext.

    Attributes:
        ca_file: PEM file of the authorities that sign the services' certificates, or ``system`` for those of this
            machine; it turns TLS on for all services but those at a ``unix:`` path.
        certificate_file: PEM file of the client's own certificate chain, for services that ask for one.
        key_file: PEM file of its key.
        token: sent with every call.
        token_file: file of the token, in place of ``token``; read again whenever it changes.
        server_name: the name that the services' certificates must have, where it is not that of their address, as
            behind `kubectl port-forward`.
    """

    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    server_name: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Security":
        """Read EVALFLEET_TLS_CA, _CERT, _KEY and _SERVER_NAME, and EVALFLEET_TOKEN or EVALFLEET_TOKEN_FILE."""
        environ = os.environ if environ is None else environ
        return cls(
            ca_file=environ.get(CA_VARIABLE, ""),
            certificate_file=environ.get(CERTIFICATE_VARIABLE, ""),
            key_file=environ.get(KEY_VARIABLE, ""),
            server_name=environ.get(SERVER_NAME_VARIABLE, ""),
            token=environ.get(TOKEN_VARIABLE, "").strip(),
            token_file=environ.get(TOKEN_FILE_VARIABLE, ""),
        )

    def credentials(self, target: str) -> grpc.ChannelCredentials | None:
        """Return the credentials of a channel to ``target``; ``None`` for one in plaintext.

        Raises:
            SecurityError: a file cannot be read, one of certificate and key is missing, or a token would travel in
                plaintext to another machine.
        """
        if bool(self.certificate_file) != bool(self.key_file):
            raise SecurityError(
                f"a client's certificate and its key go together: set {CERTIFICATE_VARIABLE} and {KEY_VARIABLE}",
                reason="CLIENT_CERTIFICATE_INCOMPLETE",
            )
        if not self.ca_file or is_unix_socket(target):
            self._check_plaintext(target)
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca_file == SYSTEM_ROOTS else _read(self.ca_file),
            private_key=_read(self.key_file) if self.key_file else None,
            certificate_chain=_read(self.certificate_file) if self.certificate_file else None,
        )

    def _check_plaintext(self, target: str) -> None:
        if self.certificate_file and not is_unix_socket(target):
            raise SecurityError(
                f"a client's certificate needs {CA_VARIABLE}: the file of whom it trusts, or {SYSTEM_ROOTS}",
                reason="CLIENT_CERTIFICATE_INCOMPLETE",
            )
        if (self.token or self.token_file) and not is_local(target):
            raise SecurityError(
                f"a token is not sent in plaintext to {target}: set {CA_VARIABLE} to the file of whom to trust, "
                f"or to {SYSTEM_ROOTS}, and have the service speak TLS",
                reason="TOKEN_NEEDS_TLS",
                metadata={"target": target},
            )


class CertificateWatch:
    """Tells when the certificates of a ``Security`` were replaced, as rotated secrets are.

    They are looked at once a second at most, when somebody asks.
    """

    def __init__(self, security: Security) -> None:
        named = (security.ca_file, security.certificate_file, security.key_file)
        self._files = [each for each in named if each and each != SYSTEM_ROOTS] if security.ca_file else []
        self._pair = (security.certificate_file, security.key_file)
        self._seen = self._stamps()
        self._next_look = time.monotonic() + _LOOK_SECONDS

    def has_changed(self) -> bool:
        """Return whether there are other files than when this was true, or at the beginning, that can be used."""
        if not self._files or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + _LOOK_SECONDS
        stamps = self._stamps()
        # In the middle of a rotation a key and its certificate do not belong together: then it is not over.
        if stamps is None or stamps == self._seen or not self._is_pair():
            return False
        self._seen = stamps
        return True

    def _stamps(self) -> tuple[tuple[int, int, int], ...] | None:
        try:
            return tuple(map(_stamp, self._files))
        except OSError:
            return None

    def _is_pair(self) -> bool:
        if not self._pair[0]:
            return True
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*self._pair)
        except OSError:
            return False
        return True


class TokenSource:
    """The token of a ``Security``, as metadata; a file is read again when it was replaced or written."""

    def __init__(self, security: Security) -> None:
        self._file = security.token_file
        self._token = security.token
        self._is_checked = False
        self._seen: tuple[int, int, int] | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the entry that carries the token; none if there is no token.

        Raises:
            SecurityError: the file cannot be read, or what it holds is no token.
        """
        if self._file:
            self._refresh()
        elif self._token and not self._is_checked:
            # gRPC would refuse it with a message that shows it.
            _check_token(self._token, f"what is given as a token, or {TOKEN_VARIABLE},")
            self._is_checked = True
        return ((_TOKEN_KEY, f"Bearer {self._token}"),) if self._token else ()

    def _refresh(self) -> None:
        try:
            seen = _stamp(self._file)
            if seen == self._seen:
                return
            token = Path(self._file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise SecurityError(f"the token's file cannot be read: {error}", reason="TOKEN_UNREADABLE") from None
        _check_token(token, self._file)
        self._token, self._seen = token, seen


def _stamp(path: str) -> tuple[int, int, int]:
    """Return what differs once a file was replaced or written."""
    status = os.stat(path)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _check_token(token: str, holder: str) -> None:
    """Refuse what cannot be a token; it may be a secret all the same, so it is not shown.

    Raises:
        SecurityError: it cannot be sent.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SecurityError(f"{holder} holds no token on one line", reason="TOKEN_UNREADABLE")


def is_local(target: str) -> bool:
    """Return whether a gRPC target is this machine itself; names other than ``localhost`` are not looked up."""
    if is_unix_socket(target):
        return True
    address = _without_scheme(target)
    host = address[1:].partition("]")[0] if address.startswith("[") else address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(target: str) -> tuple[str, int] | None:
    """Return where a gRPC target is, if it says so in one host and one port."""
    host, _, port = _without_scheme(target).rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isascii() and port.isdigit() else None


def is_unix_socket(target: str) -> bool:
    """Return whether a gRPC target is a socket of this machine."""
    return target.startswith(("unix:", "unix-abstract:"))


def _without_scheme(target: str) -> str:
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        if target.startswith(scheme):
            # `dns://authority/host:port` asks another name server; several addresses may follow `ipv4:`.
            rest = target[len(scheme) :]
            if "," in rest or (rest.startswith("//") and not rest.startswith("///")):
                return ""
            return rest.lstrip("/")
    return target


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SecurityError(f"{path} cannot be read: {error.strerror}", reason="CERTIFICATE_UNREADABLE") from None

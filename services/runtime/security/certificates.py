"""Certificates from files, read again when they change: a rotated certificate needs no restart."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.runtime.error_types import StartupError
from services.runtime.security.reloading import Reloaded
from services.runtime.security.settings import SecuritySettings


@dataclass(frozen=True, slots=True)
class Certificates:
    """What was read, all of it PEM.

    Attributes:
        chain: the own certificate and those between it and its authority.
        key: the own key.
        authorities: whom to trust; ``None``: nobody is asked for a certificate.
        expires_seconds: when the own certificate ends, since the epoch.
    """

    chain: bytes
    key: bytes
    authorities: bytes | None
    expires_seconds: float

    def __repr__(self) -> str:
        return f"Certificates(expires_seconds={self.expires_seconds})"


class CertificateFiles:
    """Files of a certificate, its key and perhaps authorities; what they hold now is ``current()``.

    Args:
        chain: PEM file.
        key: PEM file.
        authorities: PEM file; ``None`` for none.

    Raises:
        StartupError: FILE_UNREADABLE, CERTIFICATE_UNUSABLE: it holds nothing of the kind, or key and certificate do not
            belong together.
    """

    def __init__(self, chain: Path, key: Path, authorities: Path | None = None) -> None:
        self._chain, self._key, self._authorities = chain, key, authorities
        paths = [path for path in (chain, key, authorities) if path is not None]
        self._content = Reloaded(paths, self._read, name="certificates")

    def current(self) -> Certificates:
        """Return what the files hold; what was there before while they are unusable."""
        return self._content.current()

    def _read(self) -> Certificates:
        chain, key = self._chain.read_bytes(), self._key.read_bytes()
        authorities = None if self._authorities is None else self._authorities.read_bytes()
        certificate = _parsed(x509.load_pem_x509_certificate, chain, self._chain)
        private = _parsed(lambda pem: load_pem_private_key(pem, password=None), key, self._key)
        if authorities is not None and self._authorities is not None:
            _parsed(x509.load_pem_x509_certificates, authorities, self._authorities)
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if certificate.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
            raise _unusable(f"the key in {self._key} is not that of the certificate in {self._chain}")
        return Certificates(chain, key, authorities, certificate.not_valid_after_utc.timestamp())


def fleet_certificates(settings: SecuritySettings) -> CertificateFiles | None:
    """Return what this service shows to the other services of its fleet; ``None`` where they speak plaintext.

    Raises:
        StartupError: CERTIFICATE_UNUSABLE.
    """
    if settings.tls_ca is None or settings.tls_cert is None or settings.tls_key is None:
        return None
    return CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_ca)


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """Return the credentials of a port; each new connection is shown the current certificate.

    Callers must show a certificate of their own if the files name authorities. Open connections are not touched.
    """
    shown = files.current()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        current = files.current()
        if current is shown:
            return None
        shown = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        fetch,  # type: ignore[arg-type]  # gRPC's documentation has None for "no change", its stub has not
        require_client_authentication=shown.authorities is not None,
    )


def channel_credentials(certificates: Certificates) -> grpc.ChannelCredentials:
    """Return the credentials of a channel to another service, whose certificate must name the host that is called."""
    return grpc.ssl_channel_credentials(certificates.authorities, certificates.key, certificates.chain)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(certificates.key, certificates.chain)], certificates.authorities)


def _parsed(parse: Callable[[bytes], Any], pem: bytes, path: Path) -> Any:
    try:
        return parse(pem)
    except (ValueError, TypeError):
        # Not what the parser says of it: that may show what it read, and the file may hold a key.
        raise _unusable(f"{path} holds nothing usable in PEM (a key must have no password)") from None


def _unusable(problem: str) -> StartupError:
    return StartupError(f"{problem}; see docs/security.md", reason="CERTIFICATE_UNUSABLE")

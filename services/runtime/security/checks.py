"""Refuses, before anything listens, settings under which a service would be open or could not be called."""

from services.runtime.error_types import StartupError
from services.runtime.security.settings import SecuritySettings, is_loopback


def check_security(settings: SecuritySettings, host: str) -> None:
    """Check that the settings fit together.

    Args:
        settings: of the service.
        host: address of its gRPC ports.

    Raises:
        StartupError: INSECURE_PORT: plaintext beyond loopback. TLS_INCOMPLETE: one of several files is missing.
            CALLERS_UNKNOWN: TLS, but no way to tell callers. TOKENS_INCOMPLETE: an issuer without an audience, or the
            reverse, a public port without tokens, or quotas where nobody can be told from anybody.
    """
    _check_files(settings)
    _check_tokens(settings)
    if not settings.has_tls and not is_loopback(host) and not settings.allow_insecure:
        raise StartupError(
            f"EVALFLEET_HOST={host} would take calls of other machines in plaintext: set EVALFLEET_TLS_CERT, "
            "EVALFLEET_TLS_KEY and EVALFLEET_TLS_CA, or EVALFLEET_HOST=127.0.0.1; where a mesh or a proxy of the same "
            "pod encrypts, EVALFLEET_ALLOW_INSECURE=true",
            reason="INSECURE_PORT",
            metadata={"host": host},
        )


def _check_files(settings: SecuritySettings) -> None:
    for variable, cert, key in (
        ("EVALFLEET_TLS", settings.tls_cert, settings.tls_key),
        ("EVALFLEET_PUBLIC_TLS", settings.public_tls_cert, settings.public_tls_key),
    ):
        if (cert is None) != (key is None):
            raise StartupError(
                f"a certificate and its key go together: set {variable}_CERT and {variable}_KEY",
                reason="TLS_INCOMPLETE",
            )
    if settings.tls_ca is not None and settings.tls_cert is None:
        raise StartupError(
            "EVALFLEET_TLS_CA is whom the fleet's services trust; set EVALFLEET_TLS_CERT and EVALFLEET_TLS_KEY, too, "
            "by which they trust this one",
            reason="TLS_INCOMPLETE",
        )
    if settings.tls_peers and settings.tls_ca is None:
        raise StartupError(
            "EVALFLEET_TLS_PEERS names services by their certificates: set EVALFLEET_TLS_CA to who signs them",
            reason="TLS_INCOMPLETE",
        )
    if settings.public_port and settings.tls_cert is None and settings.public_tls_cert is None:
        raise StartupError(
            "EVALFLEET_PUBLIC_PORT speaks TLS: set EVALFLEET_PUBLIC_TLS_CERT and EVALFLEET_PUBLIC_TLS_KEY",
            reason="TLS_INCOMPLETE",
        )


def _check_tokens(settings: SecuritySettings) -> None:
    if bool(settings.oidc_issuer) != bool(settings.oidc_audience):
        raise StartupError(
            "an issuer's tokens are for many services: set EVALFLEET_OIDC_ISSUER and EVALFLEET_OIDC_AUDIENCE together",
            reason="TOKENS_INCOMPLETE",
        )
    if settings.public_port and not settings.has_tokens:
        raise StartupError(
            "callers at EVALFLEET_PUBLIC_PORT show a token: set EVALFLEET_CALLER_KEYS or EVALFLEET_OIDC_ISSUER",
            reason="TOKENS_INCOMPLETE",
        )
    if settings.caller_quotas is not None and not settings.checks_callers:
        raise StartupError(
            "EVALFLEET_CALLER_QUOTAS holds for callers who prove who they are: set EVALFLEET_CALLER_KEYS, "
            "EVALFLEET_OIDC_ISSUER or certificates (EVALFLEET_TLS_CERT, EVALFLEET_TLS_KEY, EVALFLEET_TLS_CA), too",
            reason="TOKENS_INCOMPLETE",
        )
    if settings.has_tls and settings.tls_ca is None and not settings.has_tokens:
        raise StartupError(
            "with TLS alone nobody could tell callers: set EVALFLEET_TLS_CA for callers with certificates, or "
            "EVALFLEET_CALLER_KEYS or EVALFLEET_OIDC_ISSUER for those with tokens",
            reason="CALLERS_UNKNOWN",
        )

"""Settings by which a service trusts others and is trusted; every service process has them."""

import ipaddress
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class SecuritySettings(BaseSettings):
    """Certificates, tokens, quotas and the audit log. With none of them a service listens on loopback alone."""

    tls_cert: Path | None = Field(
        None, description="PEM file of this service's certificate chain; read again when it changes."
    )
    tls_key: Path | None = Field(None, description="PEM file of its key.")
    tls_ca: Path | None = Field(
        None,
        description="PEM file of the authorities of the fleet: callers at the gRPC port show a certificate that they "
        "signed, and so do the services that this one calls.",
    )
    tls_peers: str = Field(
        "",
        description="Who is known by a certificate alone: names in it (DNS names or URIs), separated by commas; each a "
        "service of the fleet, or NAME=ROLE+ROLE for somebody who has these roles.",
    )
    public_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Second gRPC port, with TLS, for callers who have a token and no certificate; 0 turns it off.",
    )
    public_tls_cert: Path | None = Field(
        None, description="PEM file of the certificate chain at the public port; default: tls_cert."
    )
    public_tls_key: Path | None = Field(None, description="PEM file of its key.")
    health_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="gRPC port in plaintext that answers health checks and nothing else, for kubelets; 0 turns it off.",
    )
    health_host: str = Field("", description="Address of the health port; default: that of the gRPC port.")
    allow_insecure: bool = Field(
        False,
        description="Take calls without TLS from other machines: for a pod whose mesh or proxy encrypts, and for "
        "containers on a network of their own.",
    )

    caller_keys: Path | None = Field(
        None, description="TOML file of callers with the hashes of their keys and their roles; read again on change."
    )
    oidc_issuer: str = Field("", description="URL of the issuer whose tokens (JWT) callers show; empty: none.")
    oidc_audience: str = Field("", description="The audience that such a token must be for.")
    oidc_jwks_url: str = Field("", description="Where the issuer's keys are; default: as its discovery document says.")
    oidc_ca: Path | None = Field(
        None, description="PEM file of the authorities of the issuer's certificate; default: those of this machine."
    )
    oidc_algorithms: str = Field(
        "RS256,ES256", description="Signature algorithms that a token may have, separated by commas; no others count."
    )
    oidc_caller_claim: str = Field("sub", description="Claim that names the caller.")
    oidc_roles_claim: str = Field(
        "roles",
        description="Claim with the caller's roles, as evalfleet:evaluate, evalfleet:read, …: a list, or words in a "
        "string; dots lead into objects.",
    )
    token_leeway_seconds: float = Field(
        30.0, ge=0, le=300, description="How far, in seconds, an issuer's clock may differ from ours."
    )
    caller_quotas: Path | None = Field(
        None, description="TOML file of how much each caller may ask of this service; absent: nobody is limited."
    )
    audit_file: Path | None = Field(
        None, description="File that the audit log is appended to; default: the service's log."
    )

    @property
    def has_tls(self) -> bool:
        """Whether the gRPC port is encrypted."""
        return self.tls_cert is not None

    @property
    def has_tokens(self) -> bool:
        """Whether callers may show a token."""
        return self.caller_keys is not None or bool(self.oidc_issuer)

    @property
    def checks_callers(self) -> bool:
        """Whether every call must come from somebody known."""
        return self.has_tls or self.has_tokens or self.public_port != 0


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``; names other than ``localhost`` are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

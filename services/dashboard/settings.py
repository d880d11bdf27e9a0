"""Settings of the dashboard, read from the environment."""

import ipaddress
import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.runtime.errors import StartupError

PREFIX = "EVALFLEET_DASHBOARD_"
_TOKEN_BYTES = 24
_LEAST_TOKEN_CHARACTERS = 16


class DashboardSettings(BaseSettings):
    """Where the dashboard listens, and who may look; where the fleet is, its client reads from the same environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

    host: str = Field("127.0.0.1", description="Address to listen on; beyond loopback it needs a token and TLS.")
    port: int = Field(8130, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    token: SecretStr = Field(
        SecretStr(""), description="Whoever looks must have it; empty: one is made at each start and printed."
    )
    token_file: Path | None = Field(None, description="File with the token, instead of `token`.")
    tls_certificate: Path | None = Field(None, description="PEM file of the server's certificate and its chain.")
    tls_key: Path | None = Field(None, description="PEM file of its key.")
    behind_tls_proxy: bool = Field(
        False, description="A proxy in front ends TLS: cookies are for HTTPS alone, and other hosts may connect."
    )
    allowed_hosts: list[str] = Field(
        default_factory=list, description='Names that browsers call it by, as JSON: ["eval.example.org"].'
    )
    guard_records: Path | None = Field(
        None, description="Folder of the records that calibrate-guard and calibrate-judge write (*.json)."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "console", "json"] = "auto"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def has_tls(self) -> bool:
        """Whether browsers speak HTTPS to it, or to the proxy in front."""
        return self.behind_tls_proxy or self.tls_certificate is not None

    def checked_token(self) -> str:
        """Return the token; a new one if none is given.

        Raises:
            StartupError: TOKEN_INVALID, TOKEN_REQUIRED, TLS_REQUIRED, HOSTS_REQUIRED.
        """
        token = self.token.get_secret_value()
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise StartupError(f"{PREFIX}TOKEN_FILE cannot be read: {error}", reason="TOKEN_INVALID") from error
            if not token:
                raise StartupError(f"{PREFIX}TOKEN_FILE is empty", reason="TOKEN_INVALID")
        if token and len(token) < _LEAST_TOKEN_CHARACTERS:
            raise StartupError(
                f"a token of the dashboard has at least {_LEAST_TOKEN_CHARACTERS} characters", reason="TOKEN_INVALID"
            )
        if not self.is_local and not token:
            raise StartupError(
                f"beyond loopback the dashboard needs a token of your own: set {PREFIX}TOKEN_FILE",
                reason="TOKEN_REQUIRED",
            )
        if not self.is_local and not self.has_tls:
            raise StartupError(
                f"beyond loopback the dashboard needs TLS: set {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY, "
                f"or {PREFIX}BEHIND_TLS_PROXY=true",
                reason="TLS_REQUIRED",
            )
        if not self.is_local and not self.allowed_hosts:
            raise StartupError(
                "beyond loopback the dashboard must know by which names browsers call it: --allowed-host NAME, "
                f"or {PREFIX}ALLOWED_HOSTS",
                reason="HOSTS_REQUIRED",
            )
        return token or secrets.token_urlsafe(_TOKEN_BYTES)

"""Tells who makes a call: by certificate, by key or by token."""

from collections.abc import Mapping
from typing import Any, Final

from services.runtime.calls import ReceivedMetadata
from services.runtime.error_types import StartupError, UnauthenticatedError
from services.runtime.security.caller_keys import KEY_PREFIX, CallerKeys
from services.runtime.security.identity import Identity, Peers
from services.runtime.security.issued_tokens import IssuedTokens, TokenRules
from services.runtime.security.issuer_keys import IssuerKeys, check_url, json_fetch
from services.runtime.security.settings import SecuritySettings

AUTHORIZATION_KEY: Final = "authorization"
_SCHEME: Final = "bearer "


class Callers:
    """Everybody who may call a service.

    Args:
        peers: those who are known by their certificates.
        keys: those with keys; ``None``: nobody.
        tokens: those with an issuer's tokens; ``None``: nobody.
    """

    def __init__(self, peers: Peers, keys: CallerKeys | None, tokens: IssuedTokens | None) -> None:
        self._peers = peers
        self._keys = keys
        self._tokens = tokens

    async def identify(self, certificate: Mapping[str, Any], metadata: ReceivedMetadata) -> Identity:
        """Return who makes a call.

        Args:
            certificate: gRPC's authentication context.
            metadata: of the call.

        Raises:
            UnauthenticatedError: CALLER_UNKNOWN: nothing proves who it is; CALLER_NAME_TAKEN: it has the name of
                somebody who is known otherwise; or what is wrong with the proof.
            UnavailableError: TOKEN_KEYS_UNAVAILABLE.
        """
        peer = self._peers.find(certificate)
        if peer is not None:
            return peer
        token = _token(metadata)
        if self._keys is not None and token.startswith(KEY_PREFIX):
            return self._keys.identify(token)
        if self._tokens is not None:
            identity = await self._tokens.identify(token)
            self._check_name(identity.name)
            return identity
        raise UnauthenticatedError("this is no key of a caller; tokens are not taken here", reason="TOKEN_MALFORMED")

    def _check_name(self, name: str) -> None:
        """Refuse a token whose issuer gives it the name of somebody with a key or a certificate.

        Raises:
            UnauthenticatedError: CALLER_NAME_TAKEN.
        """
        if self._peers.has(name) or (self._keys is not None and self._keys.has(name)):
            raise UnauthenticatedError(
                "the token names a caller who is known here by a key or a certificate; use that",
                reason="CALLER_NAME_TAKEN",
            )

    async def close(self) -> None:
        """Ask issuers nothing more."""
        if self._tokens is not None:
            await self._tokens.close()


def open_callers(settings: SecuritySettings) -> Callers:
    """Return those whom the settings name.

    Raises:
        StartupError: a file, an address or a name of them cannot be used.
    """
    keys = None if settings.caller_keys is None else CallerKeys(settings.caller_keys)
    return Callers(Peers(settings.tls_peers), keys, _open_tokens(settings))


def _open_tokens(settings: SecuritySettings) -> IssuedTokens | None:
    if not settings.oidc_issuer:
        return None
    try:
        check_url(settings.oidc_issuer, "EVALFLEET_OIDC_ISSUER")
        if settings.oidc_jwks_url:
            check_url(settings.oidc_jwks_url, "EVALFLEET_OIDC_JWKS_URL")
    except ValueError as error:
        raise StartupError(str(error), reason="ISSUER_INVALID") from error
    keys = IssuerKeys(settings.oidc_issuer, settings.oidc_jwks_url, json_fetch(settings.oidc_ca))
    rules = TokenRules(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=frozenset(each.strip() for each in settings.oidc_algorithms.split(",") if each.strip()),
        caller_claim=settings.oidc_caller_claim,
        roles_claim=settings.oidc_roles_claim,
        leeway_seconds=settings.token_leeway_seconds,
    )
    return IssuedTokens(rules, keys)


def _token(metadata: ReceivedMetadata) -> str:
    """Return the bearer token of a call.

    Raises:
        UnauthenticatedError: CALLER_UNKNOWN: there is none. TOKEN_MALFORMED: several, or something else.
    """
    found = [value for key, value in metadata if key == AUTHORIZATION_KEY]
    if not found:
        raise UnauthenticatedError(
            "nothing says who makes this call: send a token (EVALFLEET_TOKEN_FILE of the client, or the metadata entry "
            "`authorization: Bearer …`), or show a certificate that is known here",
            reason="CALLER_UNKNOWN",
        )
    value = found[0]
    if len(found) > 1 or not isinstance(value, str) or not value.lower().startswith(_SCHEME):
        raise UnauthenticatedError(
            "the metadata entry `authorization` must be there once, as `Bearer TOKEN`", reason="TOKEN_MALFORMED"
        )
    return value[len(_SCHEME) :].strip()

"""Tokens (JWT) that an OpenID Connect issuer signed."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from services.runtime.error_types import StartupError, UnauthenticatedError
from services.runtime.security.identity import Identity, caller_name
from services.runtime.security.issuer_keys import KNOWN_ALGORITHMS, KeySource
from services.runtime.security.roles import CALLER_ROLES, Role

ROLE_PREFIX: Final = "evalfleet:"
"""Before the names of our roles among a token's, which may be for many services."""
LONGEST_TOKEN_CHARACTERS: Final = 12 * 1024

_REQUIRED: Final = ["exp", "iss", "aud"]
_MOST_REMEMBERED: Final = 4096
_REMEMBERED_SECONDS: Final = 60.0
"""What was found out of a token is believed for so long; then its key is looked up again."""

_REASONS: Final[Mapping[type[jwt.PyJWTError], tuple[str, str]]] = {
    jwt.ExpiredSignatureError: ("TOKEN_EXPIRED", "the token has expired; get a new one"),
    jwt.ImmatureSignatureError: ("TOKEN_NOT_YET_VALID", "the token is not valid yet; is a clock wrong?"),
    jwt.InvalidIssuedAtError: ("TOKEN_NOT_YET_VALID", "the token is not valid yet; is a clock wrong?"),
    jwt.InvalidAudienceError: ("TOKEN_AUDIENCE_WRONG", "the token is for another audience"),
    jwt.InvalidIssuerError: ("TOKEN_ISSUER_WRONG", "the token is another issuer's"),
    jwt.InvalidAlgorithmError: ("TOKEN_ALGORITHM_REFUSED", "the token's signature is of a kind that does not count"),
    jwt.InvalidSignatureError: ("TOKEN_SIGNATURE_WRONG", "the token's signature is wrong"),
    jwt.MissingRequiredClaimError: ("TOKEN_CLAIM_MISSING", "the token lacks a claim: exp, iss and aud are needed"),
}


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be.

    Attributes:
        issuer: exactly who issued it.
        audience: whom it is for.
        algorithms: how it may be signed.
        caller_claim: which claim names the caller.
        roles_claim: which holds its roles; dots lead into objects.
        leeway_seconds: how far the issuer's clock may differ.
    """

    issuer: str
    audience: str
    algorithms: frozenset[str]
    caller_claim: str
    roles_claim: str
    leeway_seconds: float

    def __post_init__(self) -> None:
        if not self.algorithms or not self.algorithms <= KNOWN_ALGORITHMS:
            raise StartupError(
                f"EVALFLEET_OIDC_ALGORITHMS must be some of {', '.join(sorted(KNOWN_ALGORITHMS))}",
                reason="ALGORITHMS_INVALID",
            )


class IssuedTokens:
    """Tells whose token it is.

    Args:
        rules: what a token must be.
        keys: finds the issuer's keys.
        now: clock, in seconds since the epoch.
    """

    def __init__(self, rules: TokenRules, keys: KeySource, *, now: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._keys = keys
        self._now = now
        # By digest: memory holds no token longer than its call.
        self._remembered: OrderedDict[bytes, tuple[float, Identity]] = OrderedDict()

    async def identify(self, token: str) -> Identity:
        """Return whose token it is.

        Raises:
            UnauthenticatedError: TOKEN_MALFORMED, TOKEN_EXPIRED, TOKEN_NOT_YET_VALID, TOKEN_AUDIENCE_WRONG,
                TOKEN_ISSUER_WRONG, TOKEN_ALGORITHM_REFUSED, TOKEN_SIGNATURE_WRONG, TOKEN_KEY_UNKNOWN,
                TOKEN_CLAIM_MISSING.
            UnavailableError: TOKEN_KEYS_UNAVAILABLE.
        """
        if len(token) > LONGEST_TOKEN_CHARACTERS:
            raise UnauthenticatedError("this is too long for a token", reason="TOKEN_MALFORMED")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        believed_until, identity = self._remembered.get(digest, (0.0, None))
        now = self._now()
        if identity is None or believed_until <= now:
            identity = await self._verify(token)
            self._remember(digest, min(now + _REMEMBERED_SECONDS, identity.ends_seconds), identity)
        if identity.ends_seconds <= now:
            raise UnauthenticatedError("the token has expired; get a new one", reason="TOKEN_EXPIRED")
        return identity

    async def close(self) -> None:
        """Ask the issuer nothing more."""
        await self._keys.close()

    def _remember(self, digest: bytes, until: float, identity: Identity) -> None:
        self._remembered[digest] = (until, identity)
        self._remembered.move_to_end(digest)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _verify(self, token: str) -> Identity:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise UnauthenticatedError("this is neither a key nor a token (JWT)", reason="TOKEN_MALFORMED") from None
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise _refused(jwt.InvalidAlgorithmError())
        if "crit" in header:
            raise UnauthenticatedError("the token needs an extension that is not known here", reason="TOKEN_MALFORMED")
        key_id = header.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            raise UnauthenticatedError("the token's key id is no text", reason="TOKEN_MALFORMED")
        keys = await self._keys.find(key_id)
        if keys is None:
            raise UnauthenticatedError("the token's issuer has no such key", reason="TOKEN_KEY_UNKNOWN")
        if (key := keys.get(algorithm)) is None:
            raise _refused(jwt.InvalidAlgorithmError())
        return self._identity(self._claims(token, key))

    def _claims(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=sorted(self._rules.algorithms),
                audience=self._rules.audience,
                issuer=self._rules.issuer,
                leeway=self._rules.leeway_seconds,
                options={"require": _REQUIRED, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, ArithmeticError) as error:
            # Without the cause: its text may hold parts of the token.
            raise _refused(error) from None

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        name = claims.get(self._rules.caller_claim)
        if not isinstance(name, str) or not name:
            raise UnauthenticatedError(
                f"the token lacks the claim {self._rules.caller_claim!r}, which names the caller",
                reason="TOKEN_CLAIM_MISSING",
            )
        roles = _roles(claims, self._rules.roles_claim)
        return Identity(caller_name(name), roles, float(claims["exp"]) + self._rules.leeway_seconds)


def _roles(claims: Mapping[str, Any], path: str) -> frozenset[Role]:
    """Return the roles of ours that a token gives; words for other services are let be."""
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    words = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    names = {each.removeprefix(ROLE_PREFIX) for each in words if isinstance(each, str) and each.startswith(ROLE_PREFIX)}
    return frozenset(role for role in CALLER_ROLES if role.value in names)


def _refused(error: Exception) -> UnauthenticatedError:
    for kind, (reason, message) in _REASONS.items():
        if isinstance(error, kind):
            return UnauthenticatedError(message, reason=reason)
    return UnauthenticatedError("the token cannot be read", reason="TOKEN_MALFORMED")

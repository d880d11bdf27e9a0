"""The keys of an issuer (JWKS): fetched in bounded time and size, cached, renewed when a token names another key."""

import asyncio
import contextlib
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import jwt
import structlog

from services.runtime.error_types import StartupError, UnavailableError
from services.runtime.security.settings import is_loopback

FETCH_TIMEOUT_SECONDS: Final = 5.0
LARGEST_DOCUMENT_BYTES: Final = 256 * 1024
MOST_KEYS: Final = 64
FRESH_SECONDS: Final = 300.0
"""Keys older than this are renewed before the next token is believed: one that its issuer withdrew counts no longer."""
USABLE_SECONDS: Final = 3600.0
"""While the issuer cannot be reached, keys that were known count for so long, and not longer."""
PAUSE_SECONDS: Final = 5.0
"""Between two fetches: tokens that name unknown keys do not make us flood the issuer."""

KNOWN_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""Signatures with a key that only the issuer has. With HS256 its public key would do, and with none no key at all."""

_DISCOVERY: Final = "/.well-known/openid-configuration"
_CURVE_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
_RSA_ALGORITHMS: Final = tuple(sorted(each for each in KNOWN_ALGORITHMS if each.startswith(("RS", "PS"))))

Fetch = Callable[[str], Any]
KeyByAlgorithm = Mapping[str, jwt.PyJWK]
"""One key, by the name of each algorithm whose signatures it may verify; never one of another kind of key."""


class KeySource(Protocol):
    """Finds the key that a token names."""

    async def find(self, key_id: str | None) -> KeyByAlgorithm | None:
        """Return the key, by algorithm; ``None``: the issuer has no such key.

        Raises:
            UnavailableError: TOKEN_KEYS_UNAVAILABLE: nobody knows, because the issuer cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Ask for nothing more."""
        ...


class IssuerKeys:
    """The keys of one issuer. Nothing of a token but its ``kid`` is used, and that only to look up a key here.

    Args:
        issuer: its URL; what it says of itself must name the same one.
        jwks_url: where its keys are; empty: as its discovery document says.
        fetch: returns the JSON behind a URL, blocking; raises OSError or ValueError.
        now: clock, in seconds.
    """

    def __init__(self, issuer: str, jwks_url: str, fetch: Fetch, *, now: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._fetch = fetch
        self._now = now
        self._keys: Mapping[str | None, KeyByAlgorithm] = {}
        self._fetched_seconds = self._tried_seconds = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None) -> KeyByAlgorithm | None:
        """Return the key that a token names; see KeySource."""
        age_seconds = self._now() - self._fetched_seconds
        if key_id not in self._keys or age_seconds > FRESH_SECONDS:
            await self._renew()
            age_seconds = self._now() - self._fetched_seconds
        if age_seconds > USABLE_SECONDS or (key_id not in self._keys and self._tried_seconds > self._fetched_seconds):
            raise UnavailableError(
                "the issuer of this token cannot be asked for its keys now; try again",
                reason="TOKEN_KEYS_UNAVAILABLE",
                retry_after_seconds=PAUSE_SECONDS,
            )
        return self._keys.get(key_id)

    async def close(self) -> None:
        """End a fetch."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    async def _renew(self) -> None:
        """Fetch the keys, with all who wait for them, unless that was just tried."""
        fetching = self._begin()
        if fetching is not None:
            # A caller who gives up must not take the fetch away from the others.
            await asyncio.shield(fetching)

    def _begin(self) -> "asyncio.Task[None] | None":
        if self._fetching is None and self._now() - self._tried_seconds >= PAUSE_SECONDS:
            self._fetching = asyncio.create_task(self._fetch_keys(), name="fetch the issuer's keys")
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, fetching: "asyncio.Task[None]") -> None:
        self._fetching = None

    async def _fetch_keys(self) -> None:
        log: Any = structlog.get_logger(__name__)
        try:
            keys = await asyncio.to_thread(self._load)
        except Exception as error:  # noqa: BLE001 - whatever an issuer answers, its keys of before go on to count
            self._tried_seconds = self._now()
            log.warning("issuer_keys_not_fetched", issuer=self._issuer, problem=_problem(error))
            return
        self._keys = keys
        self._fetched_seconds = self._tried_seconds = self._now()
        log.info("issuer_keys_fetched", issuer=self._issuer, keys=len(keys))

    def _load(self) -> Mapping[str | None, KeyByAlgorithm]:
        url = self._jwks_url
        if not url:
            document = self._fetch(self._issuer.rstrip("/") + _DISCOVERY)
            if document.get("issuer") != self._issuer:
                raise ValueError("its discovery document names another issuer")
            url = check_url(str(document.get("jwks_uri", "")), "its jwks_uri")
        keys: dict[str | None, KeyByAlgorithm] = {}
        for entry in self._fetch(url)["keys"][:MOST_KEYS]:
            if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str | None):
                continue
            if entry.get("use", "sig") != "sig":
                continue
            # A key of a kind that we do not know, or with parts that are none, does the others no harm.
            with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError, LookupError, AttributeError):
                keys[entry.get("kid")] = {each: jwt.PyJWK(entry, each) for each in _algorithms(entry)}
        if not keys:
            raise ValueError("it has no key that can be used")
        return keys


def json_fetch(authorities: Path | None) -> Fetch:
    """Return what fetches a JSON object in bounded time and size, following no redirect and through no proxy.

    Args:
        authorities: PEM file of whom to trust; ``None``: this machine's.

    Raises:
        StartupError: FILE_UNREADABLE.
    """
    try:
        context = ssl.create_default_context(cafile=None if authorities is None else str(authorities))
    except (OSError, ssl.SSLError) as error:
        raise StartupError(f"EVALFLEET_OIDC_CA={authorities}: {error}", reason="FILE_UNREADABLE") from error
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context), _NoRedirects()
    )

    def fetch(url: str) -> Any:
        ends_at = time.monotonic() + FETCH_TIMEOUT_SECONDS
        content = bytearray()
        with opener.open(url, timeout=FETCH_TIMEOUT_SECONDS) as answer:
            # The time limit of a socket is for each read: one byte at a time would never reach it.
            while piece := answer.read1(16 * 1024):
                content += piece
                if len(content) > LARGEST_DOCUMENT_BYTES or time.monotonic() > ends_at:
                    raise ValueError("its answer is too large or too slow")
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("its answer is no JSON object")
        return document

    return fetch


def check_url(url: str, what: str) -> str:
    """Return ``url`` if it is https, or http to this machine, and holds no password, which a log would show.

    Raises:
        ValueError: it is anything else.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError(f"{what} must hold neither user nor password")
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname and is_loopback(parts.hostname):
        return url
    raise ValueError(f"{what} must begin with https://")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: a redirect would lead from a checked address to one that nobody checked."""


def _algorithms(entry: Mapping[str, Any]) -> Sequence[str]:
    """Return what a key of a JWKS may verify: what it says (``alg``), else what a key of its kind can.

    Many issuers leave ``alg`` out, and a token must not choose the kind in its place: an elliptic curve goes with one
    algorithm, RSA keys with those of both paddings, and symmetric keys, by which everybody could sign, with none.

    Raises:
        LookupError: keys of its kind do not count.
    """
    possible = _RSA_ALGORITHMS if entry["kty"] == "RSA" else (_CURVE_ALGORITHMS[entry["crv"]],)
    said = entry.get("alg")
    if said is None:
        return possible
    if said not in possible:
        raise LookupError("its kind of key makes no such signatures")
    return (said,)


def _problem(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code}"
    return str(error) or type(error).__name__

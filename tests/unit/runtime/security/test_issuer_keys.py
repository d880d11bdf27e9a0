"""Keys of an issuer: rotated, withdrawn, out of reach, and an issuer that answers nonsense."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from services.runtime.errors import StartupError, UnauthenticatedError, UnavailableError
from services.runtime.security import issuer_keys
from services.runtime.security.identity import caller_name
from services.runtime.security.issued_tokens import IssuedTokens, TokenRules
from services.runtime.security.issuer_keys import (
    FRESH_SECONDS,
    PAUSE_SECONDS,
    USABLE_SECONDS,
    IssuerKeys,
    check_url,
    json_fetch,
)
from services.runtime.security.roles import Role
from tests.fakes.issuer import AUDIENCE, Issuer, serve_issuer


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with serve_issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(issuer: Issuer, clock: Clock) -> IssuerKeys:
    return IssuerKeys(issuer.url, "", json_fetch(None), now=clock)


def tokens_of(issuer: Issuer, keys: IssuerKeys, **rules: Any) -> IssuedTokens:
    told: dict[str, Any] = {
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "algorithms": frozenset({"ES256", "RS256"}),
        "caller_claim": "sub",
        "roles_claim": "roles",
        "leeway_seconds": 5.0,
    }
    return IssuedTokens(TokenRules(**(told | rules)), keys)


async def test_keys_are_fetched_once_for_all_who_wait(issuer: Issuer, keys: IssuerKeys) -> None:
    tokens = tokens_of(issuer, keys)
    found = await asyncio.gather(*(tokens.identify(issuer.token(sub=f"user-{n}")) for n in range(20)))
    assert [each.name for each in found] == [f"user-{n}" for n in range(20)]
    assert found[0].roles == {Role.CLASSIFY, Role.READ}
    assert issuer.fetches == 1


async def test_a_new_key_is_found_and_a_withdrawn_one_forgotten(issuer: Issuer, keys: IssuerKeys, clock: Clock) -> None:
    assert await keys.find("k1") is not None
    issuer.keys["k2"] = rsa.generate_private_key(65537, 2048)
    clock.seconds += PAUSE_SECONDS
    identity = await tokens_of(issuer, keys).identify(issuer.token(kid="k2"))
    assert identity.name == "alice"
    del issuer.keys["k1"]
    clock.seconds += FRESH_SECONDS + 1
    assert await keys.find("k1") is None
    assert issuer.fetches == 3
    await keys.close()


async def test_tokens_with_unknown_keys_do_not_flood_the_issuer(issuer: Issuer, keys: IssuerKeys, clock: Clock) -> None:
    for number in range(50):
        assert await keys.find(f"made-up-{number}") is None
    assert issuer.fetches == 1
    clock.seconds += PAUSE_SECONDS
    assert await keys.find("made-up") is None
    assert issuer.fetches == 2


async def test_while_the_issuer_is_away_known_keys_count_for_a_while_and_unknown_ones_never(
    issuer: Issuer, keys: IssuerKeys, clock: Clock
) -> None:
    issuer.is_up = False
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            await keys.find("k1")
        assert caught.value.reason == "TOKEN_KEYS_UNAVAILABLE"
        assert caught.value.retry_after_seconds is not None
    issuer.is_up = True
    clock.seconds += PAUSE_SECONDS
    assert await keys.find("k1") is not None
    issuer.is_up = False
    clock.seconds += PAUSE_SECONDS
    with pytest.raises(UnavailableError):
        await keys.find("k2")
    clock.seconds += USABLE_SECONDS - PAUSE_SECONDS - 1
    assert await keys.find("k1") is not None
    clock.seconds += 2
    await keys.close()
    with pytest.raises(UnavailableError):
        await keys.find("k1")


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
        {"kty": "XX", "kid": "x"},
        {"kty": "RSA", "kid": "x", "use": "enc", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "kid": "x", "n": 5, "e": ["AQAB"]},
        {"kty": "EC", "kid": ["x"], "crv": "P-256"},
        ["x"],
    ],
)
async def test_keys_that_nobody_should_use_are_left_out(issuer: Issuer, keys: IssuerKeys, entry: Any) -> None:
    issuer.extra_keys = [entry]
    assert await keys.find("x") is None
    assert await keys.find("k1") is not None


@pytest.mark.parametrize("answer", [[], {}, {"keys": None}, {"keys": ["x"]}, {"keys": []}])
async def test_an_issuer_that_answers_nonsense_is_away(answer: Any, clock: Clock) -> None:
    keys = IssuerKeys("https://issuer.example", "https://issuer.example/keys", lambda url: answer, now=clock)
    with pytest.raises(UnavailableError):
        await keys.find("k1")


async def test_an_issuer_that_names_another_is_not_believed(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.discovered_issuer = "https://evil.example"
    with pytest.raises(UnavailableError):
        await keys.find("k1")
    assert issuer.fetches == 0


def test_fetches_are_bounded(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer_keys, "LARGEST_DOCUMENT_BYTES", 10)
    with pytest.raises(ValueError, match="too large"):
        json_fetch(None)(f"{issuer.url}/keys")


@pytest.mark.parametrize("url", ["http://issuer.example", "file:///etc/passwd", "ftp://127.0.0.1/", "https://", ""])
def test_issuers_are_asked_over_https_alone(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        check_url(url, "it")
    assert check_url("http://127.0.0.1:1/x", "it") == "http://127.0.0.1:1/x"


def test_an_issuers_address_holds_no_password() -> None:
    with pytest.raises(ValueError, match="password") as caught:
        check_url("https://me:secret@issuer.example", "it")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("algorithms", [set(), {"none"}, {"HS256"}, {"RS256", "HS256"}])
def test_only_signatures_of_the_issuers_alone_may_be_allowed(algorithms: set[str]) -> None:
    with pytest.raises(StartupError, match="EVALFLEET_OIDC_ALGORITHMS"):
        TokenRules("https://i", "a", frozenset(algorithms), "sub", "roles", 0)


async def test_clocks_may_differ_by_the_leeway(issuer: Issuer, keys: IssuerKeys) -> None:
    tokens = tokens_of(issuer, keys, leeway_seconds=60.0)
    assert (await tokens.identify(issuer.token(expires_in=-30))).name == "alice"
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens.identify(issuer.token(expires_in=-90))
    assert caught.value.reason == "TOKEN_EXPIRED"


async def test_an_algorithm_that_is_not_allowed_is_refused_whatever_key_it_has(
    issuer: Issuer, keys: IssuerKeys
) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens_of(issuer, keys, algorithms=frozenset({"RS256"})).identify(issuer.token())
    assert caught.value.reason == "TOKEN_ALGORITHM_REFUSED"
    # An RSA key's id with a signature of an EC key's kind.
    issuer.keys["k2"] = rsa.generate_private_key(65537, 2048)
    claims = jwt.decode(issuer.token(), options={"verify_signature": False})
    mixed = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "k2"})
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens_of(issuer, keys).identify(mixed)
    assert caught.value.reason == "TOKEN_ALGORITHM_REFUSED"


@pytest.mark.parametrize(
    ("claims", "path", "roles"),
    [
        ({"roles": ["evalfleet:read", "read", 7]}, "roles", {Role.READ}),
        ({"scope": "openid evalfleet:classify evalfleet:service"}, "scope", {Role.CLASSIFY}),
        ({"realm_access": {"roles": ["evalfleet:administer"]}}, "realm_access.roles", {Role.ADMINISTER}),
        ({"roles": {"evalfleet:read": True}}, "roles", set()),
        ({"roles": None}, "roles.deeper", set()),
    ],
)
async def test_roles_are_read_from_the_claim_that_holds_them(
    claims: dict[str, Any], path: str, roles: set[Role], issuer: Issuer, keys: IssuerKeys
) -> None:
    identity = await tokens_of(issuer, keys, roles_claim=path).identify(issuer.token(**claims))
    assert identity.roles == roles


def test_names_that_differ_stay_different() -> None:
    names = [
        "alice",
        "system:serviceaccount:ml:trainer",
        "system.serviceaccount.ml.trainer",
        "a|b",
        "a b",
        "é",
        "x" * 80,
    ]
    assert len({caller_name(each) for each in names}) == len(names)
    assert caller_name("alice") == "alice"
    assert caller_name(caller_name("a:b")) != caller_name("a:b")
    assert all(len(caller_name(each)) <= 64 for each in names)
    assert json.dumps(caller_name("\ud800"))

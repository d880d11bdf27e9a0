"""Keys of an issuer: rotated, withdrawn, out of reach, and an issuer that answers nonsense."""

import asyncio
import hmac
import json
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm
from jwt.utils import base64url_encode

from services.runtime.errors import StartupError, UnauthenticatedError, UnavailableError
from services.runtime.security import issuer_keys
from services.runtime.security.identity import caller_name
from services.runtime.security.issued_tokens import IssuedTokens, TokenRules
from services.runtime.security.issuer_keys import (
    FRESH_SECONDS,
    KNOWN_ALGORITHMS,
    PAUSE_SECONDS,
    USABLE_SECONDS,
    IssuerKeys,
    check_url,
    json_fetch,
)
from services.runtime.security.roles import Role
from tests.fakes.issuer import AUDIENCE, Issuer, serve_issuer

RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_NUMBER = RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True)["n"]
ALL = frozenset(KNOWN_ALGORITHMS)


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


def encode(part: Any) -> str:
    return base64url_encode(json.dumps(part).encode()).decode()


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
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "crv": "P-256"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "x", "alg": "RS256"},
        {"kty": "RSA", "kid": "x", "n": RSA_NUMBER, "e": "AQAB", "alg": "HS256"},
        {"kty": "RSA", "kid": "x", "n": RSA_NUMBER, "e": "AQAB", "alg": "ES256"},
        {"kty": "RSA", "kid": "x", "n": RSA_NUMBER, "e": "AQAB", "alg": ["RS256"]},
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


@pytest.mark.parametrize("algorithm", sorted(ALL - {"EdDSA"}))
async def test_a_key_that_does_not_say_its_algorithm_verifies_all_of_its_kind_that_are_allowed(
    algorithm: str, issuer: Issuer, keys: IssuerKeys
) -> None:
    curves: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    curve = curves.get(algorithm)
    issuer.keys["k2"] = RSA_KEY if curve is None else ec.generate_private_key(curve)
    token = issuer.token(kid="k2", algorithm=algorithm)
    allowed = tokens_of(issuer, keys, algorithms=frozenset({algorithm}))
    assert (await allowed.identify(token)).name == "alice"
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens_of(issuer, keys, algorithms=ALL - {algorithm}).identify(token)
    assert caught.value.reason == "TOKEN_ALGORITHM_REFUSED"
    # Signed by somebody else.
    issuer.keys["k2"] = rsa.generate_private_key(65537, 2048) if curve is None else ec.generate_private_key(curve)
    with pytest.raises(UnauthenticatedError) as caught:
        await allowed.identify(issuer.token(kid="k2", algorithm=algorithm))
    assert caught.value.reason == "TOKEN_SIGNATURE_WRONG"


@pytest.mark.parametrize(("said", "refused"), [("PS256", "RS256"), ("RS256", "PS256"), ("RS512", "RS256")])
async def test_a_key_that_says_its_algorithm_verifies_no_other(
    said: str, refused: str, issuer: Issuer, keys: IssuerKeys
) -> None:
    issuer.extra_keys = [{"kty": "RSA", "kid": "k2", "n": RSA_NUMBER, "e": "AQAB", "alg": said}]
    tokens = tokens_of(issuer, keys, algorithms=ALL)
    told = jwt.decode(issuer.token(), options={"verify_signature": False})
    assert await tokens.identify(jwt.encode(told, RSA_KEY, said, headers={"kid": "k2"}))
    with pytest.raises(UnauthenticatedError) as caught:
        await tokens.identify(jwt.encode(told, RSA_KEY, refused, headers={"kid": "k2"}))
    assert caught.value.reason == "TOKEN_ALGORITHM_REFUSED"


@pytest.mark.parametrize("algorithm", ["HS256", "none", "ES384", "RS256", "es256", "", None, ["ES256"], {}])
async def test_a_token_does_not_choose_how_it_is_verified(algorithm: Any, issuer: Issuer, keys: IssuerKeys) -> None:
    """Whatever its header claims of the issuer's P-256 key, also signed with the public key as if it were a secret."""
    claims = issuer.token().split(".")[1]
    header = encode({"alg": algorithm, "kid": "k1", "typ": "JWT"})
    public = issuer.keys["k1"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mac = hmac.digest(public, f"{header}.{claims}".encode(), "sha256")
    for signature in (base64url_encode(mac).decode(), issuer.token().split(".")[2], ""):
        with pytest.raises(UnauthenticatedError) as caught:
            await tokens_of(issuer, keys, algorithms=ALL).identify(f"{header}.{claims}.{signature}")
        assert caught.value.reason in {"TOKEN_ALGORITHM_REFUSED", "TOKEN_MALFORMED"}


async def test_a_curve_goes_with_one_algorithm(issuer: Issuer, keys: IssuerKeys) -> None:
    issuer.keys["k2"] = ec.generate_private_key(ec.SECP384R1())
    found = await keys.find("k2")
    assert found is not None
    assert set(found) == {"ES384"}


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

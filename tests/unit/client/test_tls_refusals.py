"""A client that gets no connection is told which certificate is to blame; where that is certain, it asks once."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.errors import UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.retrying import NO_RETRIES, is_worth_repeating
from evalfleet.security import Security, host_and_port

from services.runtime.free_ports import free_port
from tests.authority import Authority, Leaf
from tests.fakes.scripted_safety import ScriptedSafety, serve

HOUR = datetime.timedelta(hours=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder / "fleet", "fleet")


@pytest.fixture(scope="module")
def targets(authority: Authority) -> Iterator[dict[str, str]]:
    """Services that ask for certificates, by what is the matter with their own."""
    leaves = {
        "in order": authority.sign("server", "127.0.0.1"),
        "another name": authority.sign("elsewhere", "elsewhere.example"),
        "expired": authority.sign("expired-server", "127.0.0.1", expires_in=-HOUR),
    }

    def credentials(leaf: Leaf) -> grpc.ServerCredentials:
        pair = (leaf.key.read_bytes(), leaf.cert.read_bytes())
        return grpc.ssl_server_credentials([pair], authority.file.read_bytes(), require_client_auth=True)

    first, second, third = (serve(ScriptedSafety(), credentials(each)) for each in leaves.values())
    with first as a, second as b, third as c, serve(ScriptedSafety()) as plain:
        yield dict(zip(leaves, (a.target, b.target, c.target), strict=True)) | {"plaintext": plain.target}


def security(authority: Authority, leaf: Leaf | None) -> Security:
    own = {} if leaf is None else {"certificate_file": str(leaf.cert), "key_file": str(leaf.key)}
    return Security(ca_file=str(authority.file), **own)


def classify(target: str, with_security: Security) -> None:
    with Fleet.connect({"safety": target}, security=with_security, retries=NO_RETRIES) as fleet:
        fleet.safety.classify([("user", "x")])


async def classify_async(target: str, with_security: Security) -> None:
    async with AsyncFleet.connect({"safety": target}, security=with_security, retries=NO_RETRIES) as fleet:
        await fleet.safety.classify([("user", "x")])


@pytest.mark.parametrize(
    ("what", "server", "cause"),
    [
        ("no certificate", "in order", "CLIENT_CERTIFICATE_MISSING"),
        ("wrong CA", "in order", "CLIENT_CERTIFICATE_REFUSED"),
        ("wrong CA of the same name", "in order", "CLIENT_CERTIFICATE_REFUSED"),
        ("expired", "in order", "CLIENT_CERTIFICATE_REFUSED"),
        ("trusts another CA", "in order", "SERVER_AUTHORITY_UNKNOWN"),
        ("in order", "another name", "SERVER_NAME_WRONG"),
        ("in order", "expired", "SERVER_CERTIFICATE_EXPIRED"),
        ("in order", "plaintext", "SERVER_SPEAKS_PLAINTEXT"),
    ],
)
async def test_each_refusal_says_whose_certificate_it_is(
    what: str, server: str, cause: str, authority: Authority, targets: dict[str, str], tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger", "stranger")
    clients: dict[str, Callable[[], Security]] = {
        "in order": lambda: security(authority, authority.sign("client", "evaluation")),
        "no certificate": lambda: security(authority, None),
        "wrong CA": lambda: security(authority, stranger.sign("x", "evaluation")),
        "wrong CA of the same name": lambda: security(
            authority, Authority(tmp_path / "twin", "fleet").sign("x", "evaluation")
        ),
        "expired": lambda: security(authority, authority.sign("expired-client", "evaluation", expires_in=-HOUR)),
        "trusts another CA": lambda: security(stranger, authority.sign("client", "evaluation")),
    }
    told = clients[what]()
    with pytest.raises(UnavailableError) as caught:
        classify(targets[server], told)
    with pytest.raises(UnavailableError) as caught_async:
        await classify_async(targets[server], told)
    for error in (caught.value, caught_async.value):
        assert (error.reason, error.metadata["cause"]) == ("TLS_REFUSED", cause)
        assert targets[server] in error.message
        assert error.request_id
        # What the service's certificate is to blame for is certain; of its own the client only sees the outcome.
        assert is_worth_repeating(error) is cause.startswith("CLIENT")


def test_whoever_is_in_order_gets_in(authority: Authority, targets: dict[str, str]) -> None:
    classify(targets["in order"], security(authority, authority.sign("client", "evaluation")))


def test_nobody_there_is_no_refusal(authority: Authority) -> None:
    told = security(authority, None)
    target = f"127.0.0.1:{free_port('127.0.0.1')}"
    with (
        pytest.raises(UnavailableError) as caught,
        Fleet.connect({"safety": target}, security=told, retries=NO_RETRIES) as fleet,
    ):
        fleet.safety.classify([("user", "x")])
    assert caught.value.reason == "UNAVAILABLE"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("safety:8102", ("safety", 8102)),
        ("[::1]:1", ("::1", 1)),
        ("dns:///safety:1", ("safety", 1)),
        ("unix:/tmp/a.sock", None),
        ("xds:///safety", None),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", None),
    ],
)
def test_where_a_target_is(target: str, expected: tuple[str, int] | None) -> None:
    assert host_and_port(target) == expected

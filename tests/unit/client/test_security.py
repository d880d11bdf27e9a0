"""Certificates and tokens over real gRPC: who is trusted, and where a token never goes."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.errors import SecurityError, UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.results import Decision
from evalfleet.retrying import NO_RETRIES
from evalfleet.security import Security, is_local

from tests.fakes.scripted_safety import ScriptedSafety, serve

LOCAL = [
    "127.0.0.1:1",
    "127.8.8.8:1",
    "localhost:1",
    "[::1]:1",
    "unix:/tmp/a.sock",
    "unix-abstract:a",
    "dns:localhost:1",
    "dns:///localhost:1",
    "ipv4:127.0.0.1:1",
    "ipv6:[::1]:1",
]
REMOTE = [
    "safety:8102",
    "10.0.0.1:1",
    "localhost.example.com:1",
    "127.0.0.1.example.com:1",
    "127.example.com:1",
    "dns:///safety:1",
    "dns://127.0.0.1/safety:1",
    "ipv4:127.0.0.1:1,10.0.0.1:1",
    "[::2]:1",
    "xds:///safety",
]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, what it signed for a server and for a client, and a stranger's authority."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ca", "stranger"):
        openssl(
            folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1", encoding="ascii")
    for name in ("server", "client"):
        openssl(
            folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", "san", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


@pytest.fixture
def encrypted(certificates: Path) -> Iterator[ScriptedSafety]:
    """A service that speaks TLS and asks clients for their certificate."""
    pair = ((certificates / "server.key").read_bytes(), (certificates / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (certificates / "ca.pem").read_bytes(), True)
    with serve(ScriptedSafety(), credentials) as running:
        yield running


@pytest.fixture
def plain() -> Iterator[ScriptedSafety]:
    with serve(ScriptedSafety()) as running:
        yield running


def classify(target: str, security: Security | None = None) -> Decision:
    with Fleet.connect({"safety": target}, security=security, retries=NO_RETRIES) as fleet:
        return fleet.safety.classify([("user", "x")]).decision


@pytest.mark.parametrize("target", LOCAL)
def test_this_machine_is_told_from_others(target: str) -> None:
    assert is_local(target)
    Security(token="secret").credentials(target)


@pytest.mark.parametrize("target", REMOTE)
def test_a_token_never_leaves_this_machine_in_plaintext(target: str) -> None:
    assert not is_local(target)
    for security in (Security(token="secret"), Security(token_file="/secret")):
        with pytest.raises(SecurityError) as caught:
            security.credentials(target)
        assert caught.value.reason == "TOKEN_NEEDS_TLS"
    Security().credentials(target)


async def test_neither_client_calls_where_a_token_must_not_go() -> None:
    with pytest.raises(SecurityError):
        classify("safety.example.com:8102", Security(token="secret"))
    async with AsyncFleet.connect({"safety": "safety.example.com:8102"}, security=Security(token="secret")) as fleet:
        with pytest.raises(SecurityError):
            await fleet.safety.classify([("user", "x")])


def test_a_token_travels_with_every_call(plain: ScriptedSafety, monkeypatch: pytest.MonkeyPatch) -> None:
    classify(plain.target)
    monkeypatch.setenv("EVALFLEET_TOKEN", "secret")
    classify(plain.target)
    assert [each.metadata.get("authorization") for each in plain.calls] == [None, "Bearer secret"]
    assert "secret" not in repr(Security.from_environment())


@pytest.mark.parametrize("token", ["first\nsecond", "two words", "schlüssel"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(
    plain: ScriptedSafety, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("EVALFLEET_TOKEN", token)
    with pytest.raises(SecurityError, match="no token on one line") as caught:
        classify(plain.target)
    assert token not in str(caught.value)
    assert plain.calls == []


def test_a_token_in_a_file_may_be_rotated(
    plain: ScriptedSafety, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new = tmp_path / "token", tmp_path / "new"
    file.write_text("first\n", encoding="ascii")
    monkeypatch.setenv("EVALFLEET_TOKEN_FILE", str(file))
    with Fleet.connect({"safety": plain.target}) as fleet:

        def sent() -> str:
            fleet.safety.classify([("user", "x")])
            return plain.calls[-1].metadata["authorization"]

        assert sent() == sent() == "Bearer first"
        new.write_text("other\n", encoding="ascii")
        # As Kubernetes does with mounted secrets: the same size, and perhaps the same second.
        os.replace(new, file)
        assert sent() == "Bearer other"
        count = len(plain.calls)
        for wrong in (lambda: file.write_text("two words", encoding="ascii"), file.unlink):
            wrong()
            with pytest.raises(SecurityError) as caught:
                fleet.safety.classify([("user", "x")])
            assert caught.value.reason == "TOKEN_UNREADABLE"
            assert "two words" not in str(caught.value)
        assert len(plain.calls) == count


def test_both_sides_show_certificates(
    encrypted: ScriptedSafety, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALFLEET_TLS_CA", str(certificates / "ca.pem"))
    monkeypatch.setenv("EVALFLEET_TLS_CERT", str(certificates / "client.pem"))
    monkeypatch.setenv("EVALFLEET_TLS_KEY", str(certificates / "client.key"))
    monkeypatch.setenv("EVALFLEET_TOKEN", "secret")
    assert classify(encrypted.target) is Decision.SAFE
    assert encrypted.calls[0].metadata["authorization"] == "Bearer secret"


async def test_the_awaited_client_shows_them_too(encrypted: ScriptedSafety, certificates: Path) -> None:
    own = Security(str(certificates / "ca.pem"), str(certificates / "client.pem"), str(certificates / "client.key"))
    async with AsyncFleet.connect({"safety": encrypted.target}, security=own) as fleet:
        assert (await fleet.safety.classify([("user", "x")])).decision is Decision.SAFE


STRANGERS: dict[str, Callable[[Path], Security]] = {
    "no TLS": lambda folder: Security(token="secret"),
    "no certificate": lambda folder: Security(str(folder / "ca.pem")),
    "another authority": lambda folder: Security(
        str(folder / "stranger.pem"), str(folder / "client.pem"), str(folder / "client.key")
    ),
    "this machine's authorities": lambda folder: Security(
        "system", str(folder / "client.pem"), str(folder / "client.key")
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_do_not_get_through(encrypted: ScriptedSafety, certificates: Path, stranger: str) -> None:
    with pytest.raises(UnavailableError):
        classify(encrypted.target, STRANGERS[stranger](certificates))
    assert encrypted.calls == []


@pytest.mark.parametrize(
    ("security", "reason"),
    [
        (Security(certificate_file="a"), "CLIENT_CERTIFICATE_INCOMPLETE"),
        (Security(ca_file="system", key_file="a"), "CLIENT_CERTIFICATE_INCOMPLETE"),
        (Security(certificate_file="a", key_file="b"), "CLIENT_CERTIFICATE_INCOMPLETE"),
        (Security(ca_file="/no/such/file"), "CERTIFICATE_UNREADABLE"),
    ],
)
def test_what_cannot_be_meant_is_refused(security: Security, reason: str) -> None:
    with pytest.raises(SecurityError) as caught:
        security.credentials("127.0.0.1:1")
    assert caught.value.reason == reason

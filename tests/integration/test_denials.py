"""Each way to be refused, over real sockets at one service process: what the caller is told, and what is written down.

That certificates change under load without a failed call is shown in tests/unit/runtime/security/test_ports.py.
"""

import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from evalfleet.aio import AsyncFleet
from evalfleet.errors import UnavailableError
from evalfleet.retrying import NO_RETRIES
from evalfleet.security import Security

from services.runtime.free_ports import free_port
from services.runtime.security.caller_keys import new_key
from tests.authority import Authority, Leaf
from tests.fakes.issuer import AUDIENCE, Issuer, serve_issuer
from tests.patience import LONGEST_WAIT_SECONDS, until
from tests.unit.runtime.security.serving import audited, bearer, call

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
LOCAL = "127.0.0.1"
FLEET = "evaluation.evalfleet.svc"


@dataclass(frozen=True)
class Guarded:
    """A service with mTLS for the fleet, tokens at a public port, roles, quotas and an audit file.

    Attributes:
        process: of the service.
        folder: with what it writes.
        port: of the fleet.
        public_port: for callers without certificates.
        metrics_port: of /metrics.
        authority: whom the fleet trusts.
        issuer: of tokens.
        limited_key: of a caller who may make one request a minute.
    """

    process: "subprocess.Popen[bytes]"
    folder: Path
    port: int
    public_port: int
    metrics_port: int
    authority: Authority
    issuer: Issuer
    limited_key: str

    @property
    def audit(self) -> Path:
        return self.folder / "audit.jsonl"

    def errors(self) -> str:
        return (self.folder / "stderr").read_text()

    def metrics(self) -> str:
        with urlopen(f"http://{LOCAL}:{self.metrics_port}/metrics", timeout=LONGEST_WAIT_SECONDS) as response:
            return str(response.read().decode())

    def count(self, reason: str) -> float:
        """How many handshakes ended for a reason."""
        start = f'evalfleet_tls_handshakes_refused_total{{reason="{reason}"}} '
        return sum(float(line.removeprefix(start)) for line in self.metrics().splitlines() if line.startswith(start))

    async def audited(self, event: str, reason: str) -> dict[str, Any]:
        """Wait for a line of the audit log, and return it."""

        def found() -> list[dict[str, Any]]:
            lines = audited(self.audit)
            return [each for each in lines if (each["event"], each.get("reason")) == (event, reason)]

        await until(lambda: bool(found()))
        return found()[-1]


@contextmanager
def serving(folder: Path, **variables: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the service until it has drained."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EVALFLEET_")}
    ready = folder / "ready"
    told = {"host": LOCAL, "ready_file": ready, "drain_delay_seconds": 0, **variables}
    environment |= {f"EVALFLEET_{key}".upper(): str(value) for key, value in told.items()}
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.guarded_service"],
            cwd=REPOSITORY, stdout=stdout, stderr=stderr, env=environment,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LONGEST_WAIT_SECONDS)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder / "fleet", "fleet")
    leaf = authority.sign("server", LOCAL)
    key, digest = new_key()
    (folder / "keys.toml").write_text(f'[callers.limited]\nroles = ["classify"]\nsha256 = ["{digest}"]\n')
    (folder / "quotas.toml").write_text("[callers.limited]\nrequests_per_minute = 1\n")
    port, public_port, metrics_port = (free_port(LOCAL) for _ in range(3))
    with (
        serve_issuer() as issuer,
        serving(
            folder,
            port=port, public_port=public_port, metrics_port=metrics_port,
            tls_cert=leaf.cert, tls_key=leaf.key, tls_ca=authority.file, tls_peers=FLEET,
            caller_keys=folder / "keys.toml", caller_quotas=folder / "quotas.toml",
            oidc_issuer=issuer.url, oidc_audience=AUDIENCE, token_leeway_seconds=0,
            audit_file=folder / "audit.jsonl",
        ) as process,
    ):  # fmt: skip
        yield Guarded(process, folder, port, public_port, metrics_port, authority, issuer, key)


@pytest.fixture
async def service(guarded: Guarded) -> Guarded:
    """The service, once it serves."""
    await until(lambda: (guarded.folder / "ready").exists() or guarded.process.poll() is not None)
    assert guarded.process.poll() is None, guarded.errors()
    return guarded


def dial(port: int, trusted: Authority, leaf: Leaf | None = None) -> grpc.aio.Channel:
    pair = (leaf.key.read_bytes(), leaf.cert.read_bytes()) if leaf else (None, None)
    return grpc.aio.secure_channel(f"{LOCAL}:{port}", grpc.ssl_channel_credentials(trusted.file.read_bytes(), *pair))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("no certificate", "NO_CLIENT_CERTIFICATE"),
        ("wrong CA", "UNKNOWN_AUTHORITY"),
        ("wrong CA of the same name", "UNKNOWN_AUTHORITY"),
        ("expired", "CERTIFICATE_EXPIRED"),
        ("plaintext", "NOT_TLS"),
    ],
)
async def test_refused_connections(what: str, reason: str, service: Guarded, tmp_path: Path) -> None:
    authority = service.authority
    certificate = {
        "wrong CA": lambda: Authority(tmp_path, "stranger").sign("x", FLEET),
        "wrong CA of the same name": lambda: Authority(tmp_path, "fleet").sign("x", FLEET),
        "expired": lambda: authority.sign("expired", FLEET, expires_in=-datetime.timedelta(hours=1)),
    }.get(what)
    before = service.count(reason)
    leaf = None if certificate is None else certificate()
    security = Security()
    if what != "plaintext":
        pair = {} if leaf is None else {"certificate_file": str(leaf.cert), "key_file": str(leaf.key)}
        security = Security(ca_file=str(authority.file), **pair)
    target = {"safety": f"{LOCAL}:{service.port}"}
    with pytest.raises(UnavailableError) as caught:
        async with AsyncFleet.connect(target, security=security, retries=NO_RETRIES) as fleet:
            await fleet.safety.classify([("user", "x")])
    assert caught.value.reason == ("UNAVAILABLE" if what == "plaintext" else "TLS_REFUSED")
    line = await service.audited("tls_handshake_refused", reason)
    assert line["service"] == "evalfleet.safety.v1.SafetyService"
    assert line["port"] == "fleet"
    assert line["peer"].startswith(f"ipv4:{LOCAL}:")
    await until(lambda: service.count(reason) > before)


@pytest.mark.parametrize(
    ("what", "code", "reason"),
    [
        ("no token", "UNAUTHENTICATED", "CALLER_UNKNOWN"),
        ("expired token", "UNAUTHENTICATED", "TOKEN_EXPIRED"),
        ("wrong audience", "UNAUTHENTICATED", "TOKEN_AUDIENCE_WRONG"),
        ("wrong role", "PERMISSION_DENIED", "ROLE_MISSING"),
        ("quota exceeded", "RESOURCE_EXHAUSTED", "CALLER_QUOTA_EXHAUSTED"),
    ],
)
async def test_refused_calls(what: str, code: str, reason: str, service: Guarded) -> None:
    issuer = service.issuer
    tokens = {
        "no token": "",
        "expired token": issuer.token(expires_in=-5),
        "wrong audience": issuer.token(aud="payroll"),
        "wrong role": issuer.token(roles=["evalfleet:read"]),
        "quota exceeded": service.limited_key,
    }
    async with dial(service.public_port, service.authority) as channel:
        metadata = bearer(tokens[what]) if tokens[what] else ()
        if what == "quota exceeded":
            assert await call(channel, metadata=metadata) is None
        error = await call(channel, metadata=metadata)
    assert error is not None
    assert (error.code.name, error.reason) == (code, reason)
    line = await service.audited("access_denied", reason)
    assert line["code"] == code
    assert line["peer"].startswith(f"ipv4:{LOCAL}:")


async def test_a_certificate_with_a_wrong_name_is_nobodys(service: Guarded) -> None:
    stranger = service.authority.sign("stranger", "payroll.example")
    async with dial(service.port, service.authority, stranger) as channel:
        error = await call(channel)
    assert error is not None
    assert (error.code.name, error.reason) == ("UNAUTHENTICATED", "CALLER_UNKNOWN")
    assert (await service.audited("access_denied", "CALLER_UNKNOWN"))["code"] == "UNAUTHENTICATED"


async def test_whoever_is_in_order_gets_in(service: Guarded) -> None:
    async with dial(service.port, service.authority, service.authority.sign("client", FLEET)) as channel:
        assert await call(channel) is None
    async with dial(service.public_port, service.authority) as channel:
        assert await call(channel, metadata=bearer(service.issuer.token())) is None

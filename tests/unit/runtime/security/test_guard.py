"""Who calls, may it, has it quota left: each denial is typed and audited, and nothing shows a secret."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from evalfleet.generation.v1 import model_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from services.runtime.callers import current_caller
from services.runtime.calls import current_scope
from services.runtime.errors import FleetError, NotFoundError, from_rpc_error
from services.runtime.security.caller_keys import new_key
from services.runtime.settings import ServiceSettings
from services.runtime.spending import spend
from services.runtime.testing import as_bytes
from services.runtime.usage import Usage
from tests.authority import Authority, Leaf
from tests.fakes.issuer import AUDIENCE, Issuer, serve_issuer
from tests.patience import GROWING_SECONDS, LONGEST_WAIT_SECONDS
from tests.unit.runtime.conftest import MakeSettings
from tests.unit.runtime.security.serving import MODELS, SAFETY, audit_lines, bearer, call, hosted, running


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with serve_issuer() as issuer:
        yield issuer


@pytest.fixture
def key_file(tmp_path: Path) -> tuple[Path, str]:
    """A file of callers, and the key of its team-a, who may classify and read."""
    key, digest = new_key()
    path = tmp_path / "keys.toml"
    path.write_text(f'[callers.team-a]\nroles = ["classify", "read"]\nsha256 = ["{digest}"]\n')
    return path, key


@pytest.fixture
def settings(
    make_settings: MakeSettings, key_file: tuple[Path, str], shared_issuer: Issuer, tmp_path: Path
) -> ServiceSettings:
    return make_settings(
        caller_keys=key_file[0],
        oidc_issuer=shared_issuer.url,
        oidc_audience=AUDIENCE,
        token_leeway_seconds=1,
        audit_file=tmp_path / "audit.jsonl",
    )


def without_signature(token: str) -> str:
    return token.rpartition(".")[0] + "."


def with_claims_of(token: str, other: str) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


def pem_of(issuer: Issuer) -> bytes:
    return issuer.keys["k1"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def hmac_signed(issuer: Issuer, claims: dict[str, Any]) -> str:
    """A token signed with the issuer's public key as if it were a shared secret; PyJWT refuses to make one."""

    def part(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    header = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
    signed = b".".join(part(json.dumps(each).encode()) for each in (header, claims))
    return b".".join((signed, part(hmac.new(pem_of(issuer), signed, hashlib.sha256).digest()))).decode()


async def test_each_denial_is_typed_and_audited(
    settings: ServiceSettings, key_file: tuple[Path, str], shared_issuer: Issuer
) -> None:
    issuer, key = shared_issuer, key_file[1]
    stranger = ec.generate_private_key(ec.SECP256R1())
    good = issuer.token()
    claims = jwt.decode(good, options={"verify_signature": False})
    forged = jwt.encode(claims, stranger, "ES256", headers={"kid": "k1"})
    attempts: dict[str, tuple[str, str]] = {
        "nothing": ("", "CALLER_UNKNOWN"),
        "a key that nobody has": (new_key()[0], "KEY_UNKNOWN"),
        "no token": ("hunter2", "TOKEN_MALFORMED"),
        "too long": ("x" * 13_000, "TOKEN_MALFORMED"),
        "too deep": (base64.urlsafe_b64encode(b'{"alg":' + b"[" * 7000).decode() + ".e30.x", "TOKEN_MALFORMED"),
        "expired": (issuer.token(expires_in=-5), "TOKEN_EXPIRED"),
        "not yet valid": (issuer.token(nbf=claims["iat"] + 100), "TOKEN_NOT_YET_VALID"),
        "for others": (issuer.token(aud="payroll"), "TOKEN_AUDIENCE_WRONG"),
        "for nobody": (issuer.token(aud=None), "TOKEN_CLAIM_MISSING"),
        "for ever": (issuer.token(exp=None), "TOKEN_CLAIM_MISSING"),
        "of somebody else": (issuer.token(iss="https://evil.example"), "TOKEN_ISSUER_WRONG"),
        "of nobody in particular": (issuer.token(sub=None), "TOKEN_CLAIM_MISSING"),
        "forged": (forged, "TOKEN_SIGNATURE_WRONG"),
        "changed": (with_claims_of(good, issuer.token(sub="root")), "TOKEN_SIGNATURE_WRONG"),
        "unsigned": (jwt.encode(claims, "", "none", headers={"kid": "k1"}), "TOKEN_ALGORITHM_REFUSED"),
        "unsigned, but says ES256": (without_signature(good), "TOKEN_SIGNATURE_WRONG"),
        "signed with the public key": (hmac_signed(issuer, claims), "TOKEN_ALGORITHM_REFUSED"),
        "of an unknown key": (jwt.encode(claims, stranger, "ES256", headers={"kid": "../k1"}), "TOKEN_KEY_UNKNOWN"),
        "with a key of its own": (
            jwt.encode(claims, stranger, "ES256", headers={"kid": "k9", "jku": "http://127.0.0.1:1/keys"}),
            "TOKEN_KEY_UNKNOWN",
        ),
        "with an extension": (
            jwt.encode(claims, issuer.keys["k1"], "ES256", headers={"kid": "k1", "crit": ["b64"], "b64": True}),
            "TOKEN_MALFORMED",
        ),
        "without a role": (issuer.token(roles=["classify"]), "ROLE_MISSING"),
        "with another role": (issuer.token(roles=["evalfleet:read"]), "ROLE_MISSING"),
    }
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        with capture_logs() as lines:
            for what, (token, reason) in attempts.items():
                error = await call(channel, metadata=bearer(token) if token else ())
                assert error is not None, what
                code = "PERMISSION_DENIED" if reason == "ROLE_MISSING" else "UNAUTHENTICATED"
                assert (error.reason, error.code.name) == (reason, code), what
                assert not token or token not in error.message + str(error.metadata), what
            assert await call(channel, metadata=bearer(good)) is None
            assert await call(channel, metadata=bearer(key)) is None
        written = await audit_lines(settings.audit_file or Path(), len(attempts))
        assert [each["reason"] for each in written] == [reason for _, reason in attempts.values()]
        assert {each["event"] for each in written} == {"access_denied"}
        assert all(each["method"] == f"{SAFETY}/Classify" and each["peer"] and each["request_id"] for each in written)
        assert [each.get("caller") for each in written[-2:]] == ["alice", "alice"]
        told = str(lines) + (settings.audit_file or Path()).read_text()
        for token in (*(token for token, _ in attempts.values()), good, key):
            assert not token or token not in told
            assert len(token) < 40 or token[8:40] not in told


async def test_the_log_of_a_refused_call_names_nobody(settings: ServiceSettings, shared_issuer: Issuer) -> None:
    claim = (("evalfleet-caller", "team-a"),)
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        callers: list[str | None] = []

        def note(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            if line["event"] == "call_finished":
                callers.append(current_scope().ids.caller)
            return line

        with capture_logs(processors=[note]):
            assert await call(channel, metadata=claim) is not None
        assert callers == [None]
        written = await audit_lines(settings.audit_file or Path(), 1)
        assert (written[0].get("caller"), written[0]["claimed_caller"]) == (None, "team-a")


async def test_a_token_cannot_have_the_name_of_somebody_with_a_key(
    settings: ServiceSettings, key_file: tuple[Path, str], shared_issuer: Issuer
) -> None:
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        error = await call(channel, metadata=bearer(shared_issuer.token(sub="team-a")))
        assert error is not None
        assert error.reason == "CALLER_NAME_TAKEN"
        assert await call(channel, metadata=bearer(key_file[1])) is None


async def test_every_kind_of_method_is_guarded(settings: ServiceSettings, key_file: tuple[Path, str]) -> None:
    key = bearer(key_file[1])
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = channel.stream_stream(f"/{SAFETY}/StreamClassify", as_bytes, as_bytes)
        allowed = stream(metadata=key, timeout=20)
        await allowed.write(b"x")
        assert await allowed.read() == b"x"
        allowed.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream(timeout=20).read()
        assert from_rpc_error(caught.value).reason == "CALLER_UNKNOWN"
        error = await call(channel, "Unlisted", metadata=key)
        assert error is not None
        assert (error.reason, error.metadata["role"]) == ("ROLE_MISSING", "none")
        for metadata, code in (((), "UNAUTHENTICATED"), (key, "UNIMPLEMENTED")):
            error = await call(channel, "Nothing", metadata=metadata)
            assert error is not None
            assert error.code.name == code
        reflection = "grpc.reflection.v1alpha.ServerReflection"
        asking = channel.stream_stream(f"/{reflection}/ServerReflectionInfo", as_bytes, as_bytes)(timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking.read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Watch(health_pb2.HealthCheckRequest(), timeout=20).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_metadata_without_end_harms_nobody(settings: ServiceSettings, key_file: tuple[Path, str]) -> None:
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        huge = (("authorization", "Bearer " + "x" * 100_000),)
        error = await call(channel, metadata=huge)
        assert error is not None
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        many = [("authorization", f"Bearer {key_file[1]}")] * 2
        error = await call(channel, metadata=many)
        assert error is not None
        assert error.reason == "TOKEN_MALFORMED"
        assert await call(channel, metadata=bearer(key_file[1])) is None


async def test_a_key_may_be_added_and_taken_away(
    settings: ServiceSettings, key_file: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.runtime.security.reloading.LOOK_SECONDS", 0.0)
    path, first = key_file
    second, digest = new_key()
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        assert await call(channel, metadata=bearer(first)) is None
        path.write_text(f'[callers.b]\nroles = ["classify"]\nsha256 = ["{digest}"]\nexpires = 2999-01-01T00:00:00Z\n')
        error = await call(channel, metadata=bearer(first))
        assert error is not None
        assert error.reason == "KEY_UNKNOWN"
        assert await call(channel, metadata=bearer(second)) is None
        path.write_text(f'[callers.b]\nroles = ["classify"]\nsha256 = ["{digest}"]\nexpires = 1999-01-01T00:00:00Z\n')
        error = await call(channel, metadata=bearer(second))
        assert error is not None
        assert error.reason == "TOKEN_EXPIRED"


async def test_the_name_comes_from_the_proof_except_for_the_fleet(
    authority: Authority, server_leaf: Leaf, client_leaf: Leaf, key_file: tuple[Path, str],
    make_settings: MakeSettings, tmp_path: Path,
) -> None:  # fmt: skip
    async def who(request: bytes, context: Any) -> bytes:
        return current_caller().encode()

    service = hosted(Classify=grpc.unary_unary_rpc_method_handler(who))
    settings = make_settings(
        tls_cert=server_leaf.cert, tls_key=server_leaf.key, tls_ca=authority.file, caller_keys=key_file[0],
        tls_peers="evaluation.evalfleet.svc, auditor.example=read, spiffe://evalfleet/ns/x=classify",
        audit_file=tmp_path / "audit.jsonl",
    )  # fmt: skip
    guest = authority.sign("guest", "guest.example")
    auditor = authority.sign("auditor", "auditor.example")
    program = authority.sign("program", "spiffe://evalfleet/ns/x")
    claim = (("evalfleet-caller", "root"),)
    key = bearer(key_file[1])

    async def name(leaf: Leaf, metadata: Any) -> str:
        credentials = grpc.ssl_channel_credentials(
            authority.file.read_bytes(), leaf.key.read_bytes(), leaf.cert.read_bytes()
        )
        async with grpc.aio.secure_channel(server.address, credentials) as channel:
            classify = channel.unary_unary(f"/{SAFETY}/Classify", as_bytes, as_bytes)
            try:
                return (await classify(b"x", timeout=20, metadata=metadata)).decode()
            except grpc.aio.AioRpcError as error:
                return from_rpc_error(error).reason

    async with running(settings, service) as server:
        assert await name(client_leaf, claim) == "root"
        assert await name(client_leaf, ()) == "evaluation.evalfleet.svc"
        assert await name(client_leaf, (("evalfleet-caller", "not a name"),)) == "evaluation.evalfleet.svc"
        assert await name(guest, (*claim, *key)) == "team-a"
        assert await name(guest, claim) == "CALLER_UNKNOWN"
        assert await name(auditor, claim) == "ROLE_MISSING"
        assert (await name(program, claim)).startswith("spiffe.//evalfleet/ns/x-")
    refused = {each["reason"]: each for each in await audit_lines(tmp_path / "audit.jsonl", 2)}
    assert refused["ROLE_MISSING"]["caller"] == "auditor.example"
    assert "caller" not in refused["CALLER_UNKNOWN"]


async def test_a_stream_ends_with_the_token_that_opened_it(settings: ServiceSettings, shared_issuer: Issuer) -> None:
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        # A busy machine may not get so far while the token is valid.
        for attempt, seconds in enumerate(GROWING_SECONDS, start=1):
            token = shared_issuer.token(expires_in=seconds)
            stream = channel.stream_stream(f"/{SAFETY}/StreamClassify", as_bytes, as_bytes)(metadata=bearer(token))
            await stream.write(b"x")
            answers: list[bytes] = []
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_all(stream, answers)
            assert from_rpc_error(caught.value).reason == "TOKEN_EXPIRED"
            assert (await audit_lines(settings.audit_file or Path(), attempt))[-1]["reason"] == "TOKEN_EXPIRED"
            if answers:
                break
        assert answers == [b"x"]


async def test_a_token_that_expires_midway_hides_nothing_that_was_begun(
    settings: ServiceSettings, shared_issuer: Issuer
) -> None:
    async def create(request: model_pb2.CreateModelRequest, context: Any) -> model_pb2.CreateModelResponse:
        await asyncio.Event().wait()
        raise AssertionError

    handler = grpc.unary_unary_rpc_method_handler(
        create, model_pb2.CreateModelRequest.FromString, model_pb2.CreateModelResponse.SerializeToString
    )
    service = hosted(MODELS, CreateModel=handler)
    async with running(settings, service) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = channel.unary_unary(f"/{MODELS}/CreateModel", model_pb2.CreateModelRequest.SerializeToString, as_bytes)
        path, seen = settings.audit_file or Path(), 0
        # A busy machine may not get so far while the token is valid.
        for seconds in GROWING_SECONDS:
            token = shared_issuer.token(expires_in=seconds, roles=["evalfleet:administer"])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub(model_pb2.CreateModelRequest(model_id="a"), metadata=bearer(token))
            assert from_rpc_error(caught.value).reason == "TOKEN_EXPIRED"
            lines = await audit_lines(path, seen + 1)
            if lines[-1].get("caller"):
                break
            seen = len(lines)
        denied, requested = (await audit_lines(path, seen + 2))[seen:]
    assert (denied["event"], requested["event"]) == ("access_denied", "model_load_requested")
    assert {"caller": "alice", "model_id": "a", "reason": "TOKEN_EXPIRED"}.items() <= requested.items()


async def read_all(stream: Any, answers: list[bytes]) -> None:
    async with asyncio.timeout(LONGEST_WAIT_SECONDS):
        async for each in stream:
            answers.append(each)


async def test_what_changes_the_fleet_is_written_down(make_settings: MakeSettings, tmp_path: Path) -> None:
    async def create(request: model_pb2.CreateModelRequest, context: Any) -> model_pb2.CreateModelResponse:
        if request.model_id == "gone":
            raise NotFoundError("no such folder", reason="CHECKPOINT_NOT_FOUND")
        return model_pb2.CreateModelResponse(model=model_pb2.Model(name="models/a"))

    handler = grpc.unary_unary_rpc_method_handler(
        create, model_pb2.CreateModelRequest.FromString, model_pb2.CreateModelResponse.SerializeToString
    )
    audit = tmp_path / "audit.jsonl"
    # Also where anybody may do it.
    async with (
        running(make_settings(audit_file=audit), hosted(MODELS, CreateModel=handler)) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = channel.unary_unary(f"/{MODELS}/CreateModel", model_pb2.CreateModelRequest.SerializeToString, as_bytes)
        where = "https://me:secret@store.example/a/b?token=secret"
        metadata = (("evalfleet-caller", "trainer"),)
        await stub(model_pb2.CreateModelRequest(model_id="a", checkpoint_path=where), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub(model_pb2.CreateModelRequest(model_id="gone"))
    loaded, failed = await audit_lines(audit, 2)
    assert "secret" not in audit.read_text()
    assert audit.stat().st_mode & 0o077 == 0
    assert {key: loaded[key] for key in ("event", "code", "model_id", "checkpoint_path", "claimed_caller")} == {
        "event": "model_load_requested",
        "code": "OK",
        "model_id": "a",
        "checkpoint_path": "https://store.example/a/b",
        "claimed_caller": "trainer",
    }
    assert (failed["code"], failed["reason"]) == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")


async def test_quotas_are_counted_in_requests_tokens_and_money(
    make_settings: MakeSettings, key_file: tuple[Path, str], tmp_path: Path
) -> None:
    async def classify(request: bytes, context: Any) -> bytes:
        spend(Usage(computed_prompt_tokens=30, computed_completion_tokens=10, cost_micro_usd=600_000))
        return b""

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(classify)
    quotas = tmp_path / "quotas.toml"

    async def calls_until_refused(limits: str) -> tuple[int, FleetError]:
        quotas.write_text(f'[callers."team-*"]\n{limits}\n')
        settings = make_settings(caller_keys=key_file[0], caller_quotas=quotas, audit_file=tmp_path / "audit.jsonl")
        async with (
            running(settings, hosted(Classify=handler)) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            for made in range(10):
                error = await call(channel, metadata=bearer(key_file[1]))
                if error is not None:
                    return made, error
            raise AssertionError("never refused")

    cases = (("requests_per_minute = 1", 1), ("tokens_per_day = 100", 3), ("usd_per_day = 1.0", 2))
    for number, (limits, expected) in enumerate(cases, start=1):
        made, error = await calls_until_refused(limits)
        assert made == expected
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CALLER_QUOTA_EXHAUSTED")
        assert error.quota_violations[0].subject == "callers/team-a"
        assert error.quota_violations[0].description.startswith(limits.partition(" ")[0])
        assert error.retry_after_seconds is not None
        assert 0 < error.retry_after_seconds <= 86_400
        assert error.metadata["pattern"] == "team-*"
        lines = await audit_lines(tmp_path / "audit.jsonl", number)
        assert lines[-1]["reason"] == "CALLER_QUOTA_EXHAUSTED"


async def test_a_stream_over_its_quota_ends_with_it(
    make_settings: MakeSettings, key_file: tuple[Path, str], tmp_path: Path
) -> None:
    quotas = tmp_path / "quotas.toml"
    quotas.write_text("[default]\nrequests_per_minute = 2\n")
    settings = make_settings(caller_keys=key_file[0], caller_quotas=quotas, audit_file=tmp_path / "audit.jsonl")
    async with running(settings) as server, grpc.aio.insecure_channel(server.address) as channel:
        stream = channel.stream_stream(f"/{SAFETY}/StreamClassify", as_bytes, as_bytes)(
            metadata=bearer(key_file[1]), timeout=20
        )
        for _ in range(2):
            await stream.write(b"x")
            assert await stream.read() == b"x"
        await stream.write(b"x")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert from_rpc_error(caught.value).reason == "CALLER_QUOTA_EXHAUSTED"
    lines = await audit_lines(tmp_path / "audit.jsonl", 1)
    assert [each["reason"] for each in lines] == ["CALLER_QUOTA_EXHAUSTED"]

"""A safety service with what a fleet on one machine lacks: certificates, and a cascade."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import grpc
import pytest
import yaml
from evalfleet.calibration.document import FORMAT, document_digest, guard_identity
from evalfleet.errors import EvalFleetError
from evalfleet.fleet import Fleet
from evalfleet.results import Guard
from evalfleet.retrying import NO_RETRIES
from evalfleet.security import Security

from services.standalone.testing import RunningFleet
from tests.authority import Authority, Leaf
from tests.integration.safety_process import running_safety
from tests.integration.service_process import ServiceProcess

BLOCKLIST = {
    "taxonomy": "test",
    "taxonomy_version": "1",
    "categories": {"weapons": {"title": "Weapons", "ailuminate": "iwp"}},
    "rules": [{"category": "weapons", "phrases": ["nail bomb"]}],
}
WORDS = {"name": "words", "kind": "keywords", "blocklist": "blocklist.yaml"}
CASCADE = {"name": "two", "kind": "cascade", "calibration": "cascade.json"}


def words_file(folder: Path) -> Path:
    """Write a guards file with a blocklist, ``words``."""
    (folder / WORDS["blocklist"]).write_text(yaml.safe_dump(BLOCKLIST))
    return _guards_file(folder, WORDS)


def _guards_file(folder: Path, *entries: Mapping[str, str]) -> Path:
    file = folder / f"guards-{len(entries)}.yaml"
    file.write_text(yaml.safe_dump({"guards": [dict(each) for each in entries]}))
    return file


def _write_cascade(folder: Path, guards: Sequence[Guard]) -> None:
    """Write a calibration of guards that nobody has measured."""
    first, last = map(guard_identity, guards)
    content = {
        "format": FORMAT,
        "name": CASCADE["name"],
        "description": "Two guards.",
        "promise": {"disagreement": 0.05, "confidence": 0.9},
        "stages": [{**first, "low": 0.01, "high": 0.99}, last],
    }
    (folder / CASCADE["calibration"]).write_text(json.dumps({**content, "digest": document_digest(content)}))


@contextmanager
def guarded_safety(fleet: RunningFleet, folder: Path, stages: Sequence[Guard]) -> Iterator[ServiceProcess]:
    """Run a safety service with a cascade and certificates, which has been called by one who may and two who may not.

    Args:
        fleet: has its Triton.
        folder: has the ``words_file``.
        stages: the fleet's guards that the cascade is made of: the last one is ``words``.
    """
    _write_cascade(folder, stages)
    authority = Authority(folder / "authority")
    server = authority.sign("server", "127.0.0.1")
    known, unknown = (authority.sign(each, f"{each}.example") for each in ("known", "unknown"))
    settings = {
        "GUARDS_FILE": str(_guards_file(folder, WORDS, CASCADE)),
        "TLS_CERT": str(server.cert),
        "TLS_KEY": str(server.key),
        "TLS_CA": str(authority.file),
        "TLS_PEERS": "known.example=classify+read",
    }
    ca = authority.file.read_bytes()
    shown = grpc.ssl_channel_credentials(ca, known.key.read_bytes(), known.cert.read_bytes())
    with running_safety(fleet, folder / "guarded", credentials=shown, **settings) as running:
        for leaf in (known, unknown, None):
            connected = Fleet.connect(
                {"safety": running.target}, security=_security(authority, leaf), retries=NO_RETRIES
            )
            with connected as client, nullcontext() if leaf is known else pytest.raises(EvalFleetError):
                client.safety.classify([("user", "nail bomb")], guard="two")
                # A threshold of one's own is the last guard's business.
                client.safety.classify([("user", "nail bomb")], guard="two", threshold=0.5)
        yield running


def _security(authority: Authority, leaf: Leaf | None) -> Security:
    """Return what a client shows."""
    if leaf is None:
        return Security(ca_file=str(authority.file))
    return Security(ca_file=str(authority.file), certificate_file=str(leaf.cert), key_file=str(leaf.key))

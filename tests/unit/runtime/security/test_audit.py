"""The audit log keeps what matters, and strangers cannot fill the disk with it."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.runtime.errors import StartupError
from services.runtime.security.audit import AuditLog
from tests.unit.runtime.security.serving import audited


def test_a_flood_of_refusals_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, service="safety")
    for _ in range(5000):
        log.refused("access_denied", of="unknown", reason="CALLER_UNKNOWN")
    log.record("model_deleted", name="models/a", caller=None)
    log.flush()
    lines = audited(path)
    counted = sum(each.get("count", 1) for each in lines if each["event"].startswith("access_denied"))
    assert counted == 5000
    assert len(lines) < 1000
    assert {"event": "model_deleted", "service": "safety", "name": "models/a"}.items() <= lines[-2].items()


def test_strangers_cannot_drown_the_refusals_of_those_who_are_known(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for _ in range(5000):
        log.refused("access_denied", of="unknown", reason="CALLER_UNKNOWN")
    log.refused("access_denied", of="known", caller="team-a", reason="ROLE_MISSING")
    assert [each["reason"] for each in audited(path) if each.get("caller")] == ["ROLE_MISSING"]


def test_refused_connections_cannot_drown_the_refusals_of_calls(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for _ in range(5000):
        log.refused("tls_handshake_refused", of="handshakes", count=3, reason="NOT_TLS")
    log.refused("access_denied", of="unknown", reason="CALLER_UNKNOWN")
    lines = audited(path)
    assert [each["reason"] for each in lines if each["event"] == "access_denied"] == ["CALLER_UNKNOWN"]
    assert sum(each["count"] for each in lines if each["event"].startswith("tls_handshake_refused")) == 15_000
    assert len(lines) < 1000


def test_a_file_may_be_moved_away(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.record("a")
    path.rename(tmp_path / "old")
    log.record("b")
    assert [each["event"] for each in audited(path)] == ["b"]


def test_without_a_file_it_goes_to_the_log_also_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    with capture_logs() as lines:
        AuditLog(None).record("model_loaded", caller="a")
        log = AuditLog(folder / "audit.jsonl")
        (folder / "audit.jsonl").unlink()
        folder.rmdir()
        log.refused("access_denied", of="unknown", reason="KEY_UNKNOWN")
    assert [(each["event"], each["log_level"]) for each in lines] == [
        ("model_loaded", "info"),
        ("audit_file_not_written", "error"),
        ("access_denied", "warning"),
    ]
    assert lines[0]["audit"] is True


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="EVALFLEET_AUDIT_FILE"):
        AuditLog(tmp_path / "nowhere" / "audit.jsonl")

"""What a call is charged beside its good messages."""

from pathlib import Path

import pytest
from evalfleet.generation.v1 import generation_pb2

from services.runtime.errors import ResourceExhaustedError
from services.runtime.security.quotas import Quotas
from services.runtime.security.watched import Watched


def watched_with(folder: Path, limits: str) -> Watched:
    (folder / "quotas.toml").write_text(f"[default]\n{limits}\n")
    watched = Watched(is_audited=False)
    watched.name, watched.quotas = "a", Quotas(folder / "quotas.toml", now=lambda: 1_000_000.0)
    return watched


def test_damaged_messages_are_no_way_around_a_quota(tmp_path: Path) -> None:
    items = [generation_pb2.StreamGenerateItem(item_id=str(number)) for number in range(5)]
    damaged = b"\x0a\x01\xff" + generation_pb2.StreamGenerateRequest(more=items).SerializeToString()
    watched = watched_with(tmp_path, "requests_per_minute = 10")
    watched.received_damaged(damaged)
    assert not watched.is_refused
    with pytest.raises(ResourceExhaustedError):
        watched.received_damaged(damaged)
    assert watched.is_refused

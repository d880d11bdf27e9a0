"""What a call is charged beside its good messages and answers."""

from pathlib import Path

import pytest
from evalfleet.generation.v1 import generation_pb2

from services.runtime.errors import NotFoundError, ResourceExhaustedError
from services.runtime.security.quotas import Quotas
from services.runtime.security.watched import Watched
from services.runtime.usage import Usage, with_usage


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


def test_what_a_failed_call_cost_counts(tmp_path: Path) -> None:
    watched = watched_with(tmp_path, "tokens_per_day = 10")
    watched.failed(with_usage(NotFoundError("x"), Usage(computed_prompt_tokens=10)))
    with pytest.raises(ResourceExhaustedError) as caught:
        watched.received(generation_pb2.GenerateRequest())
    assert caught.value.quota_violations[0].description == "tokens_per_day: 10 of 10 tokens a day"

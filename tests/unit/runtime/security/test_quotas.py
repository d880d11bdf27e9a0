"""What a caller may ask, and how messages are counted."""

from pathlib import Path

import pytest
from evalfleet.generation.v1 import generation_pb2
from evalfleet.safety.v1 import safety_pb2
from google.protobuf.message import DecodeError, Message

from services.runtime.errors import ResourceExhaustedError, StartupError
from services.runtime.security.quotas import Quotas
from services.runtime.security.request_counts import requests_in, requests_in_damaged
from services.runtime.usage import Usage

PIECE = safety_pb2.ResponsePiece(text="x")


def quotas_of(path: Path, text: str, seconds: list[float]) -> Quotas:
    path.write_text(text)
    return Quotas(path, now=lambda: seconds[0])


def test_requests_come_back_with_the_minute(tmp_path: Path) -> None:
    now = [1_000_000.0]
    quotas = quotas_of(tmp_path / "q.toml", "[default]\nrequests_per_minute = 60\n", now)
    quotas.take("a", 50)
    with pytest.raises(ResourceExhaustedError) as caught:
        quotas.take("a", 20)
    assert caught.value.retry_after_seconds == pytest.approx(10)
    now[0] += 10
    quotas.take("a", 20)
    quotas.take("b", 60)
    now[0] += 3600
    with pytest.raises(ResourceExhaustedError) as caught:
        quotas.take("a", 61)
    assert caught.value.retry_after_seconds is None


def test_days_begin_anew(tmp_path: Path) -> None:
    now = [86_400.0 * 20_000 - 60]
    quotas = quotas_of(tmp_path / "q.toml", '[callers."ci/*"]\ntokens_per_day = 10\n', now)
    quotas.book("ci/1", Usage(computed_prompt_tokens=6, computed_completion_tokens=4, cache_saved_tokens=90))
    quotas.book("dev", Usage(computed_prompt_tokens=1000))
    with pytest.raises(ResourceExhaustedError) as caught:
        quotas.check("ci/1")
    assert caught.value.retry_after_seconds == pytest.approx(60)
    quotas.check("ci/2")
    quotas.check("dev")
    now[0] += 60
    quotas.check("ci/1")


@pytest.mark.parametrize("text", ["[default]\nrequests = 1", "[default]\ntokens_per_day = 0", "x", '[callers."a b"]'])
def test_a_wrong_file_is_explained(text: str, tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text(text)
    with pytest.raises(StartupError, match="EVALFLEET_CALLER_QUOTAS"):
        Quotas(tmp_path / "q.toml")


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (safety_pb2.ClassifyRequest(), 1),
        (safety_pb2.BatchClassifyRequest(requests=[safety_pb2.ClassifyRequest()] * 7), 7),
        (safety_pb2.BatchClassifyRequest(), 1),
        (safety_pb2.StreamClassifyRequest(request=safety_pb2.ClassifyRequest()), 1),
        (safety_pb2.StreamClassifyRequest(opening=safety_pb2.ResponseOpening()), 1),
        (safety_pb2.StreamClassifyRequest(piece=PIECE), 0),
        (safety_pb2.StreamClassifyRequest(more=[safety_pb2.StreamClassifyItem()] * 3), 4),
        (safety_pb2.StreamClassifyRequest(piece=PIECE, more=[safety_pb2.StreamClassifyItem()] * 3), 3),
        (generation_pb2.StreamGenerateRequest(more=[generation_pb2.StreamGenerateItem()] * 3), 4),
    ],
)
def test_what_travels_together_counts_each(message: Message, count: int) -> None:
    assert requests_in(message) == count


@pytest.mark.parametrize(
    "message",
    [
        generation_pb2.StreamGenerateRequest(more=[generation_pb2.StreamGenerateItem(item_id="i")] * 5),
        safety_pb2.StreamClassifyRequest(more=[safety_pb2.StreamClassifyItem(item_id="i")] * 5),
    ],
)
def test_damaged_messages_count_with_all_that_may_be_read_of_them(message: Message) -> None:
    # A field that is no text in UTF-8, before items that can be read.
    damaged = b"\x0a\x01\xff" + message.SerializeToString()
    with pytest.raises(DecodeError):
        type(message).FromString(damaged)
    assert requests_in_damaged(damaged) == 6
    assert requests_in_damaged(b"\xff") == 1

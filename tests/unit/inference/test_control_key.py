"""The model-control key is made once, whole, and awaited by whoever starts beside its maker."""

import asyncio
import stat
from pathlib import Path

import pytest

from services.inference.control_key import read_control_key, read_or_make_key
from services.runtime.errors import StartupError


def test_the_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "key"
    key = read_or_make_key(path)
    assert len(key) == 64
    assert read_or_make_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["key"]
    with pytest.raises(StartupError, match="KEY_FILE"):
        read_or_make_key(tmp_path / "sub" / "key" / "below-a-file")


async def test_a_key_that_is_not_written_yet_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch()
    asked = asyncio.create_task(read_control_key(path))
    _, pending = await asyncio.wait([asked], timeout=0.3)
    assert pending
    path.unlink()
    key = read_or_make_key(path)
    assert await asked == key


async def test_a_key_that_never_comes_is_told_and_none_is_none(tmp_path: Path) -> None:
    assert await read_control_key(None) is None
    with pytest.raises(StartupError, match="start Triton's launcher, or set EVALFLEET_TRITON_KEY_FILE"):
        await read_control_key(tmp_path / "absent", patience_seconds=0)
    with pytest.raises(StartupError, match="cannot read"):
        await read_control_key(tmp_path)

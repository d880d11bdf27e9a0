"""Files that change: what cannot be read now is read as soon as it can be."""

from pathlib import Path

import pytest

from services.runtime.errors import UnauthenticatedError
from services.runtime.security import reloading
from services.runtime.security.caller_keys import CallerKeys, new_key
from services.runtime.security.reloading import Reloaded


@pytest.fixture(autouse=True)
def _look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.0)


def test_a_file_that_could_not_be_read_once_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    is_readable = True

    def read() -> str:
        if not is_readable:
            raise PermissionError(13, "Permission denied", str(path))
        return path.read_text()

    content = Reloaded([path], read, name="content")
    is_readable = False
    path.write_text("newer")
    assert content.current() == "old"
    is_readable = True
    assert content.current() == "newer"


def test_an_emptied_file_of_keys_is_nobody_and_a_missing_or_damaged_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key, digest = new_key()
    path.write_text(f'[callers.team-a]\nroles = ["read"]\nsha256 = ["{digest}"]\n')
    keys = CallerKeys(path)
    path.write_text("[callers")
    assert keys.identify(key).name == "team-a"
    path.unlink()
    assert keys.identify(key).name == "team-a"
    path.write_text("")
    with pytest.raises(UnauthenticatedError):
        keys.identify(key)

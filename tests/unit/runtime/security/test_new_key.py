"""The key that is printed is the one whose hash is."""

from pathlib import Path

import pytest

from services.runtime.errors import StartupError
from services.runtime.security.caller_keys import CallerKeys
from services.runtime.security.new_key import main
from services.runtime.security.roles import Role


def test_a_new_key_opens_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["new_key", "team/a", "read", "classify"])
    assert main() == 0
    printed = capsys.readouterr()
    path = tmp_path / "keys.toml"
    path.write_text(printed.err)
    identity = CallerKeys(path).identify(printed.out.strip())
    assert (identity.name, identity.roles) == ("team/a", frozenset({Role.READ, Role.CLASSIFY}))
    assert printed.out.strip() not in printed.err


@pytest.mark.parametrize("arguments", [["a b", "read"], ["a", "reed"], ["a", "service"], ["a"]])
def test_what_cannot_be_is_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["new_key", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        '[callers."a b"]\nroles = []\nsha256 = ["' + "0" * 64 + '"]',
        '[callers.a]\nroles = ["service"]\nsha256 = ["' + "0" * 64 + '"]',
        '[callers.a]\nroles = ["read"]\nsha256 = ["the key itself"]',
        '[callers.a]\nroles = ["read"]\nsha256 = []',
        '[callers.a]\nroles = ["read"]\nsha256 = ["' + "0" * 64 + '"]\nexpires = 2999-01-01T00:00:00',
        '[callers.a]\nroles = ["read"]\nsha256 = ["' + "0" * 64 + '"]\nkey = "x"',
    ],
)
def test_a_wrong_file_is_explained_without_showing_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(StartupError, match="EVALFLEET_CALLER_KEYS") as caught:
        CallerKeys(path)
    assert "the key itself" not in caught.value.message

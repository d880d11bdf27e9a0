"""The sentence encoder is put on a volume once, and whole."""

import os
import sys
from pathlib import Path

import pytest

from services.inference import encoder_copy
from services.inference.encoder_copy import copy_encoder, main
from services.inference.failures import InferenceFailure
from services.inference.public_encoder import NEEDED_FILES, locate_encoder


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder with the names of an encoder's files."""
    folder = tmp_path / "packaged"
    folder.mkdir()
    for name in NEEDED_FILES:
        (folder / name).write_text(name)
    monkeypatch.setattr(encoder_copy, "locate_encoder", lambda told: locate_encoder(told or folder))
    return folder


def test_it_is_copied_once(packaged: Path, tmp_path: Path) -> None:
    destination = tmp_path / "volume" / "encoder"
    destination.parent.mkdir()
    assert copy_encoder(destination)
    assert {each.name for each in destination.iterdir()} == set(NEEDED_FILES)
    assert not copy_encoder(destination)
    assert [each.name for each in destination.parent.iterdir()] == ["encoder"]


def test_something_else_in_its_place_is_refused(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    with pytest.raises(InferenceFailure, match=r"lacks config\.json"):
        copy_encoder(tmp_path / "encoder")


def test_the_slower_of_two_takes_what_the_quicker_one_made(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = tmp_path / "encoder"
    rename = Path.rename

    def beaten(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        assert copy_encoder(destination)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", beaten)
    monkeypatch.setattr(os, "getpid", iter((1, 2)).__next__)
    assert not copy_encoder(destination)
    assert {each.name for each in tmp_path.iterdir()} == {"packaged", "encoder"}


def test_the_command_says_what_is_wrong(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["encoder_copy", str(tmp_path / "encoder")])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["encoder_copy", str(tmp_path / "encoder/config.json/x")])
    assert main() == 1
    assert "config.json/x: " in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["encoder_copy"])
    assert main() == 2

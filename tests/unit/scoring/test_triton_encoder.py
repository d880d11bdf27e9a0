"""Finding, loading and losing the encoder, on a fake inference host."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.inference.contract import ModelEntry
from services.inference.public_encoder import locate_encoder
from services.inference.results import Embedded
from services.runtime.errors import FailedPreconditionError, UnavailableError
from services.scoring.encoding import triton_encoder
from services.scoring.encoding.errors import EncoderNotFoundError, EncoderUnavailableError
from services.scoring.encoding.triton_encoder import EncoderLimits, TritonTextEncoder


class FakeHost:
    """An inference host in memory; a text has a window for each word, and its vector points along its length."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.entries: list[ModelEntry] = []
        self.refuses = False
        self.is_up = True

    async def is_model_ready(self, model: str) -> bool:
        return self.is_up and model in self.loaded

    async def load_model(self, name: str, entry: ModelEntry, *, timeout_seconds: float) -> None:
        self._check_up()
        self.entries.append(entry)
        if self.refuses:
            raise FailedPreconditionError("no memory", reason="MODEL_LOAD_FAILED")
        self.loaded.add(name)

    async def unload_model(self, name: str, *, timeout_seconds: float) -> None:
        self.loaded.discard(name)

    async def embed(self, model: str, texts: Sequence[str], *, timeout_seconds: float, max_windows: int) -> Embedded:
        self._check_up()
        if model not in self.loaded:
            raise UnavailableError("unknown model", reason="MODEL_NOT_LOADED")
        windows = np.array([min(max_windows, len(text.split())) for text in texts], np.uint32)
        rows = int(windows.sum())
        truncated = np.array([len(text.split()) > max_windows for text in texts])
        values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
        return Embedded(values, np.arange(1, rows + 1, dtype=np.uint32), windows, truncated, 0.5)

    def _check_up(self) -> None:
        if not self.is_up:
            raise UnavailableError("connection refused", reason="INFERENCE_UNAVAILABLE")


async def test_it_is_loaded_when_it_is_first_asked_and_again_when_it_was_lost(encoder_folder: Path) -> None:
    host = FakeHost()
    encoder = TritonTextEncoder(host, lambda: encoder_folder, EncoderLimits(max_tokens=32))
    both = await asyncio.gather(*(encoder.encode(["a b c", "d"], max_windows=2) for _ in range(2)))
    assert [len(answer.texts) for answer in both] == [2, 2]
    first, second = both[0].texts
    assert (len(first.windows), first.is_truncated, first.num_tokens.tolist()) == (2, True, [1, 2])
    assert (len(second.windows), second.is_truncated, second.num_tokens.tolist()) == (1, False, [3])
    [entry] = host.entries
    told = json.loads(entry.files["1/model.json"])
    assert (told["model"], told["max_model_len"], told["dtype"]) == (str(encoder_folder), 32, "float32")
    host.loaded.clear()
    again = await encoder.encode(["a"], max_windows=1)
    assert len(host.entries) == 2
    assert again.encoder_digest == both[0].encoder_digest
    await encoder.close()
    shorter = TritonTextEncoder(host, lambda: encoder_folder, EncoderLimits(max_tokens=16))
    assert (await shorter.encode(["a"], max_windows=1)).encoder_digest != again.encoder_digest
    assert len(host.loaded) == 2
    await shorter.close()


async def test_a_missing_encoder_is_looked_for_again_after_a_while(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encoder"
    patient, impatient = (
        TritonTextEncoder(FakeHost(), lambda: locate_encoder(folder), EncoderLimits()) for _ in range(2)
    )
    with pytest.raises(EncoderNotFoundError, match=r"lacks config\.json") as caught:
        await patient.encode(["a"], max_windows=1)
    assert caught.value.reason == "ENCODER_NOT_FOUND"
    monkeypatch.setattr(triton_encoder, "_SEARCH_AGAIN_SECONDS", 0.0)
    with pytest.raises(EncoderNotFoundError):
        await impatient.encode(["a"], max_windows=1)
    folder.symlink_to(encoder_folder, target_is_directory=True)
    with pytest.raises(EncoderNotFoundError) as told:
        await patient.encode(["a"], max_windows=1)
    assert told.value is not caught.value, "one that all raise would keep all that they hold"
    assert len((await impatient.encode(["a"], max_windows=1)).texts) == 1
    await patient.close()
    await impatient.close()


async def test_a_folder_that_is_no_checkpoint_is_no_encoder(encoder_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text("{}")
    encoder = TritonTextEncoder(FakeHost(), lambda: tmp_path, EncoderLimits())
    with pytest.raises(EncoderNotFoundError, match="cannot be used"):
        await encoder.encode(["a"], max_windows=1)
    await encoder.close()


async def test_weights_that_cannot_be_read_are_no_encoder() -> None:
    def unreadable() -> Path:
        raise PermissionError("model.safetensors: permission denied")

    encoder = TritonTextEncoder(FakeHost(), unreadable, EncoderLimits())
    with pytest.raises(EncoderNotFoundError, match="permission denied"):
        await encoder.encode(["a"], max_windows=1)
    await encoder.close()


async def test_a_host_that_is_away_or_refuses_gives_typed_errors(encoder_folder: Path) -> None:
    host = FakeHost()
    host.is_up = False
    encoder = TritonTextEncoder(host, lambda: encoder_folder, EncoderLimits(ready_wait_seconds=60))
    with pytest.raises(EncoderUnavailableError, match="connection refused") as caught:
        await encoder.encode(["a"], max_windows=1)
    assert caught.value.reason == "ENCODER_UNAVAILABLE"
    assert caught.value.retry_after_seconds
    host.is_up, host.refuses = True, True
    with pytest.raises(EncoderNotFoundError, match="no memory"):
        await encoder.encode(["a"], max_windows=1)
    await encoder.close()


async def test_closing_ends_a_search(encoder_folder: Path) -> None:
    encoder = TritonTextEncoder(FakeHost(), lambda: encoder_folder, EncoderLimits())
    asked = asyncio.create_task(encoder.encode(["a"], max_windows=1))
    await asyncio.sleep(0)
    await encoder.close()
    await asyncio.gather(asked, return_exceptions=True)
    assert asked.done()

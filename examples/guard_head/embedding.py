"""Sentence embeddings of the frozen encoder, kept in a file so that a second run takes seconds."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

Matrix = NDArray[np.float32]


class Embedder:
    """Mean-pooled, L2-normalised embeddings of a Hugging Face encoder, as the classifier engine computes them.

    Args:
        encoder: folder with config.json, the tokenizer and model.safetensors.
        max_tokens: longer texts are cut.
        cache: folder for computed embeddings; its files can be deleted at any time.
    """

    def __init__(self, encoder: Path, *, max_tokens: int, cache: Path) -> None:
        self._encoder = encoder
        self._max_tokens = max_tokens
        key = hashlib.sha256(f"{encoder.resolve()}\0{max_tokens}".encode()).hexdigest()[:16]
        self._file = cache / f"embeddings-{key}.npz"

    def embed(self, texts: Sequence[str]) -> Matrix:
        """Return float32 [texts, hidden size]; each row has length 1."""
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
        known = self._load()
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            known.update(zip(missing, self._compute(list(missing.values())), strict=True))
            self._file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self._file, keys=np.array(list(known)), rows=np.stack(list(known.values())))
        return np.stack([known[key] for key in keys])

    def _load(self) -> dict[str, Matrix]:
        if not self._file.is_file():
            return {}
        with np.load(self._file) as content:
            return dict(zip(content["keys"].tolist(), content["rows"], strict=True))

    def _compute(self, texts: Sequence[str], batch: int = 64) -> list[Matrix]:
        tokenizer: Any = AutoTokenizer.from_pretrained(self._encoder, local_files_only=True)
        model: Any = AutoModel.from_pretrained(self._encoder, local_files_only=True, dtype=torch.float32).eval()
        # Texts of like length share a batch, so that little is padded.
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows: list[Matrix] = [np.empty(0, np.float32)] * len(texts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            tokens = tokenizer(
                [texts[index] for index in chosen],
                padding=True,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = model(**tokens).last_hidden_state
                mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
                normed = torch.nn.functional.normalize(pooled, dim=1)
            for index, row in zip(chosen, normed.numpy(), strict=True):
                rows[index] = row
        return rows

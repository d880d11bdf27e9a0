"""The cheap guard: the first layers of the large one's encoder and a linear head, taught by its verdicts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from examples.guard_head.regression import LinearHead, fit

_MAX_TOKENS = 256
_L2 = 1e-5

Matrix = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pass:
    """What came of reading texts.

    Attributes:
        features: float32 [texts, (layers + 1) · hidden size]: means over the tokens after the embedding and each layer.
        num_tokens: tokens of each text.
        cpu_seconds: of the whole pass.
    """

    features: Matrix
    num_tokens: NDArray[np.int64]
    cpu_seconds: float


class EarlyLayers:
    """The first layers of a BERT-like encoder.

    Args:
        encoder: its folder.
        layers: how many of its layers are computed.
    """

    def __init__(self, encoder: Path, layers: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(encoder, local_files_only=True, dtype=torch.float32).eval()
        self.all_layers = len(self._model.encoder.layer)
        self._model.encoder.layer = self._model.encoder.layer[:layers]

    @torch.inference_mode()
    def read(self, texts: Sequence[str], batch: int = 32) -> Pass:
        """Compute the features of texts, those of like length together."""
        started = time.process_time()
        ids: list[list[int]] = self._tokenizer(list(texts), truncation=True, max_length=_MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda index: len(ids[index]))
        rows: list[Matrix] = [np.empty(0, np.float32)] * len(texts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            padded = self._tokenizer.pad({"input_ids": [ids[index] for index in chosen]}, return_tensors="pt")
            states = self._model(**padded, output_hidden_states=True).hidden_states
            mask = padded["attention_mask"].unsqueeze(-1).float()
            means = torch.cat([(state * mask).sum(1) / mask.sum(1) for state in states], dim=1)
            for index, row in zip(chosen, means.numpy(), strict=True):
                rows[index] = row
        return Pass(np.stack(rows), np.array([len(each) for each in ids]), time.process_time() - started)


def taught_by(features: Matrix, is_unsafe: NDArray[np.bool_]) -> LinearHead:
    """Fit a head to the large guard's decisions on texts that may be trained on."""
    targets = is_unsafe.astype(np.float32)[:, None]
    return fit(features, targets, np.ones(len(features)), l2=_L2)

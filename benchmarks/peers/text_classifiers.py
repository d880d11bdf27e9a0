"""Runs in a peer's environment: a text classifier in process, loaded once, asked by JSON lines.

Usage: ``python text_classifiers.py pipeline FOLDER`` for transformers' text-classification pipeline, or
``python text_classifiers.py sentence_transformers ENCODER`` for sentence-transformers with scikit-learn's logistic
regression. FOLDER holds an encoder as transformers saves it and head.safetensors (weight, bias): mean pooling, L2
normalisation and a linear layer, each label by itself.

Reads one command a line: ``{"texts": […], "batch_size": n}`` → ``{"scores": [largest probability of a label, …],
"seconds": wall clock, "cpu_seconds": …}``; with ``"one_by_one": true`` also ``"latencies": [seconds, …]``.
``{"fit": [[text, label], …]}`` fits the logistic regression first.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

MAX_TOKENS = 256


class PooledForSequenceClassification(PreTrainedModel):
    """The embedded guard's model as a class of transformers' own kind, so that its pipeline can run it."""

    # The encoder inside attends as it was loaded.
    _supports_sdpa = True
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, encoder: Any, weight: torch.Tensor, bias: torch.Tensor) -> None:
        encoder.config.num_labels = len(bias)
        encoder.config.problem_type = "multi_label_classification"
        super().__init__(encoder.config)
        self.encoder = encoder
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Return logits."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).float()
        pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), dim=-1)
        logits: Any = torch.nn.functional.linear(pooled, self.weight, self.bias)
        return SequenceClassifierOutput(logits=logits)


class Pipeline:
    """transformers' text-classification pipeline."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file

        head = load_file(folder / "head.safetensors")
        model = PooledForSequenceClassification(AutoModel.from_pretrained(folder).eval(), head["weight"], head["bias"])
        self._pipeline: Any = pipeline(
            "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
        )

    def scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        """Return the largest probability of each text."""
        found = self._pipeline(
            list(texts),
            batch_size=batch_size,
            top_k=1,
            function_to_apply="sigmoid",
            truncation=True,
            max_length=MAX_TOKENS,
        )
        return [float(each[0]["score"]) for each in found]


class SentenceTransformers:
    """Frozen sentence embeddings with a logistic regression."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        self._encoder = SentenceTransformer(str(folder), device="cpu")
        self._model: Any = None

    def fit(self, rows: Sequence[tuple[str, int]]) -> None:
        """Fit the regression."""
        from sklearn.linear_model import LogisticRegression

        texts, labels = zip(*rows, strict=True)
        self._model = LogisticRegression(C=10.0, max_iter=2000).fit(self._encoder.encode(list(texts)), labels)

    def scores(self, texts: Sequence[str], batch_size: int) -> list[float]:
        """Return the probability of each text."""
        embeddings = self._encoder.encode(list(texts), batch_size=batch_size)
        return [float(each) for each in self._model.predict_proba(embeddings)[:, 1]]


def main() -> None:
    """Load the classifier and answer commands until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("pipeline", "sentence_transformers"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    # Standard output carries the answers only; whatever the libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    model: Any = Pipeline(arguments.folder) if arguments.kind == "pipeline" else SentenceTransformers(arguments.folder)
    for line in sys.stdin:
        command = json.loads(line)
        if "fit" in command:
            model.fit(command["fit"])
            answer: dict[str, Any] = {}
        elif command.get("one_by_one"):
            answer = _one_by_one(model, command["texts"])
        else:
            began, cpu = time.perf_counter(), time.process_time()
            scores = model.scores(command["texts"], command["batch_size"])
            answer = {
                "scores": scores,
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu,
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _one_by_one(model: Any, texts: Sequence[str]) -> dict[str, Any]:
    latencies, scores, cpu = [], [], time.process_time()
    for text in texts:
        began = time.perf_counter()
        scores += model.scores([text], 1)
        latencies.append(time.perf_counter() - began)
    return {
        "scores": scores,
        "latencies": latencies,
        "seconds": sum(latencies),
        "cpu_seconds": time.process_time() - cpu,
    }


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

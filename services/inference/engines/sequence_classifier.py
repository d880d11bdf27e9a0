"""The sequence-classifier engine: texts of one or several requests in, class probabilities out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from services.inference import contract
from services.inference.contract import ClassifierArguments
from services.inference.engines import seams
from services.inference.engines.batching import alike_batches
from services.inference.engines.classifier_models import LoadedClassifier, load_classifier
from services.inference.engines.classifier_variants import converted
from services.inference.engines.seams import EngineMetrics, Tensors, decoded_texts
from services.inference.failures import InferenceFailure


@dataclass(frozen=True, slots=True)
class ClassifiedTexts:
    """Results of several texts, row by row.

    Attributes:
        probabilities: float32 [texts, labels].
        num_tokens: uint32 [texts], tokens that the model read.
        truncated: bool [texts].
        engine_seconds: float64 [texts], every text's share of the engine's time.
    """

    probabilities: NDArray[np.float32]
    num_tokens: NDArray[np.uint32]
    truncated: NDArray[np.bool_]
    engine_seconds: NDArray[np.float64]

    def tensors(self, start: int, count: int) -> Tensors:
        """Return the output tensors of ``count`` rows from ``start`` on."""
        rows = slice(start, start + count)
        return {
            contract.PROBABILITIES: self.probabilities[rows],
            contract.NUM_TOKENS: self.num_tokens[rows, None],
            contract.TRUNCATED: self.truncated[rows, None],
            contract.ENGINE_SECONDS: self.engine_seconds[rows, None],
        }


class SequenceClassifierEngine:
    """Classifies texts with one checkpoint; called by one thread at a time.

    Args:
        loaded: the checkpoint in memory.
        arguments: bounds on a batch.
        metrics: where to report.
    """

    def __init__(self, loaded: LoadedClassifier, arguments: ClassifierArguments, metrics: EngineMetrics) -> None:
        self._loaded = loaded
        self._max_batched_tokens = arguments.max_num_batched_tokens
        self._metrics = metrics
        self._totals = dict.fromkeys((seams.CLASSIFIED_TEXTS, seams.PROMPT_TOKENS, seams.BUSY_SECONDS), 0.0)

    @classmethod
    def load(cls, arguments: ClassifierArguments, metrics: EngineMetrics) -> "SequenceClassifierEngine":
        """Load a classifier.

        Raises:
            InferenceFailure: the checkpoint or its head cannot be used.
        """
        loaded = load_classifier(arguments)
        if arguments.variant != "torch":
            loaded = replace(loaded, probabilities=converted(loaded, arguments))
        return cls(loaded, arguments, metrics)

    def answer(self, requests: Sequence[Tensors]) -> list[Tensors | InferenceFailure]:
        """Classify the texts of several requests together; a bad request fails alone."""
        answers: list[Tensors | InferenceFailure | None] = [None] * len(requests)
        texts: list[str] = []
        spans: dict[int, tuple[int, int]] = {}
        for index, request in enumerate(requests):
            try:
                own = decoded_texts(request, contract.TEXT)
            except InferenceFailure as failure:
                answers[index] = failure
                continue
            spans[index] = (len(texts), len(own))
            texts += own
        classified = self.classify(texts) if texts else None
        for index, (start, count) in spans.items():
            answers[index] = _checked(classified, start, count)
        return [answer for answer in answers if answer is not None]

    @torch.inference_mode()
    def classify(self, texts: Sequence[str]) -> ClassifiedTexts:
        """Classify texts, similar lengths together; texts longer than the model reads are cut and marked."""
        started = time.perf_counter()
        ids, truncated = self._encode(texts)
        lengths = np.array([len(each) for each in ids], dtype=np.uint32)
        rows: list[NDArray[np.float32] | None] = [None] * len(texts)
        for batch in alike_batches([len(each) for each in ids], self._max_batched_tokens, self._loaded.max_tokens):
            padded = self._loaded.tokenizer.pad(
                {"input_ids": [ids[row] for row in batch.rows]},
                padding="max_length",
                max_length=batch.padded_tokens,
                return_tensors="pt",
            )
            probabilities = self._loaded.probabilities(
                padded["input_ids"].to(self._loaded.device), padded["attention_mask"].to(self._loaded.device)
            )
            for row, values in zip(batch.rows, probabilities.cpu().numpy(), strict=True):
                rows[row] = values
        seconds = time.perf_counter() - started
        self._report(len(texts), int(lengths.sum()), seconds)
        return ClassifiedTexts(
            probabilities=np.stack([row for row in rows if row is not None]).astype(np.float32),
            num_tokens=lengths,
            truncated=truncated,
            engine_seconds=seconds * lengths / max(1, int(lengths.sum())),
        )

    def _encode(self, texts: Sequence[str]) -> tuple[list[list[int]], NDArray[np.bool_]]:
        tokenizer, limit = self._loaded.tokenizer, self._loaded.max_tokens
        ids: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
        truncated = np.array([len(each) > limit for each in ids], dtype=np.bool_)
        for row in np.flatnonzero(truncated):
            # Encoded again, because a cut must keep the special tokens at the end.
            ids[row] = tokenizer(texts[row], truncation=True, max_length=limit)["input_ids"]
        return ids, truncated

    def _report(self, num_texts: int, num_tokens: int, seconds: float) -> None:
        self._totals[seams.CLASSIFIED_TEXTS] += num_texts
        self._totals[seams.PROMPT_TOKENS] += num_tokens
        self._totals[seams.BUSY_SECONDS] += seconds
        self._metrics.publish(dict(self._totals))


def _checked(classified: ClassifiedTexts | None, start: int, count: int) -> Tensors | InferenceFailure:
    if classified is None or not count:
        return InferenceFailure("the request has no texts", reason="TEXTS_EMPTY", field=contract.TEXT)
    if not np.isfinite(classified.probabilities[start : start + count]).all():
        return InferenceFailure(
            "the classifier's output is not a number; the checkpoint is broken or its dtype overflows",
            reason="NONFINITE_LOGITS",
            code="FAILED_PRECONDITION",
        )
    return classified.tensors(start, count)

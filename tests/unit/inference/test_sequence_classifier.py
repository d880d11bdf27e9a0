import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.inference.contract import ClassifierArguments
from services.inference.engines import classifier_models, seams
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
from services.inference.local_models import ClassifierQueue
from tests.fakes.classifier_head import write_head

TEXTS = ["The quick brown fox", "a", "Question: Which planet is the largest? A. Mars B. Jupiter", "", "fox " * 60]


@pytest.fixture
def load(new_metrics: Any) -> Any:
    def make(folder: Path, head: Path | None = None, **arguments: Any) -> SequenceClassifierEngine:
        told = ClassifierArguments(model=str(folder), head=None if head is None else str(head), **arguments)
        return SequenceClassifierEngine.load(told, new_metrics())

    return make


def pooled_reference(folder: Path, head: Path, text: str, *, max_tokens: int) -> np.ndarray[Any, Any]:
    """One text by itself, as the definition says."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = model(ids).last_hidden_state[0].mean(dim=0)
    tensors = load_file(head / "head.safetensors")
    logits = tensors["weight"] @ (mean / mean.norm()) + tensors["bias"]
    return np.asarray(logits.sigmoid())


def test_a_pooled_head_gives_the_probabilities_of_the_definition(
    load: Any, encoder_folder: Path, tmp_path: Path
) -> None:
    head = write_head(tmp_path / "head")
    classified = load(encoder_folder, head).classify(TEXTS)
    expected = np.stack([pooled_reference(encoder_folder, head, text, max_tokens=32) for text in TEXTS])
    np.testing.assert_allclose(classified.probabilities, expected, atol=1e-5)
    assert classified.probabilities.dtype == np.float32
    assert classified.truncated.tolist() == [False, False, False, False, True]
    assert classified.num_tokens[4] == 32
    assert classified.engine_seconds.sum() > 0


def test_results_do_not_depend_on_the_batch(load: Any, encoder_folder: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head")
    together = load(encoder_folder, head).classify(TEXTS)
    one_by_one = load(encoder_folder, head, max_num_batched_tokens=1).classify(TEXTS)
    alone = [load(encoder_folder, head).classify([text]).probabilities[0] for text in TEXTS]
    np.testing.assert_allclose(together.probabilities, one_by_one.probabilities, atol=1e-6)
    np.testing.assert_allclose(together.probabilities, np.stack(alone), atol=1e-6)


def test_softmax_heads_sum_to_one(load: Any, encoder_folder: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head", activation="softmax")
    np.testing.assert_allclose(load(encoder_folder, head).classify(TEXTS).probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", None])
def test_a_checkpoint_with_its_own_head(
    load: Any, encoder_folder: Path, tiny_checkpoint: Path, tmp_path: Path, problem_type: str | None
) -> None:
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(encoder_folder, num_labels=3, problem_type=problem_type)
    torch.manual_seed(9)
    model: Any = BertForSequenceClassification(config)
    model.eval()
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.save_pretrained(tmp_path)
    classified = load(tmp_path).classify(TEXTS[:3])
    for text, row in zip(TEXTS, classified.probabilities, strict=False):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
        expected = logits.sigmoid() if problem_type == "multi_label_classification" else logits.softmax(-1)
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)


def test_an_encoder_without_head_is_refused_instead_of_guessing_one(load: Any, encoder_folder: Path) -> None:
    with pytest.raises(InferenceFailure, match="random numbers") as caught:
        load(encoder_folder)
    assert caught.value.reason == "CHECKPOINT_INCOMPLETE"


@pytest.mark.parametrize(
    ("described", "problem"),
    [
        ({"hidden": 8}, "hidden size"),
        ({"labels": 2, "described_labels": ["a", "b", "c"]}, "hidden size"),
        ({"activation": "relu"}, "activation"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_a_bad_head_is_refused(
    load: Any, encoder_folder: Path, tmp_path: Path, described: dict[str, Any], problem: str
) -> None:
    names = described.pop("described_labels", None)
    head = write_head(tmp_path / "head", **described)
    if names is not None:
        content = json.loads((head / "head.json").read_text())
        (head / "head.json").write_text(json.dumps({**content, "labels": names}))
    with pytest.raises(InferenceFailure, match=problem) as caught:
        load(encoder_folder, head)
    assert caught.value.reason == "HEAD_INVALID"


def test_a_damaged_head_file_is_refused(load: Any, encoder_folder: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head")
    (head / "head.safetensors").write_bytes(b"junk")
    with pytest.raises(InferenceFailure, match="weight and bias"):
        load(encoder_folder, head)


def test_a_bad_request_fails_alone(load: Any, encoder_folder: Path, tmp_path: Path, texts: Any) -> None:
    engine = load(encoder_folder, write_head(tmp_path / "head"))
    bad = {"text": np.array([[b"\xff"]], dtype=object)}
    good = {"text": texts("a", "b").reshape(2, 1)}
    missing: dict[str, Any] = {}
    empty = {"text": np.empty((0, 1), dtype=object)}
    answers = engine.answer([bad, good, missing, empty])
    reasons = [each.reason if isinstance(each, InferenceFailure) else None for each in answers]
    assert reasons == ["TEXT_NOT_UTF8", None, "TENSOR_MISSING", "TEXTS_EMPTY"]
    assert {name: each.shape for name, each in answers[1].items()} == {
        "probabilities": (2, 3), "num_tokens": (2, 1), "truncated": (2, 1), "engine_seconds": (2, 1),
    }  # fmt: skip


def test_a_model_that_gives_no_numbers_fails_its_requests(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_models, "_activate", lambda logits, activation: logits * float("nan"))
    engine = load(encoder_folder, write_head(tmp_path / "head"))
    (answer,) = engine.answer([{"text": texts("a").reshape(1, 1)}])
    assert isinstance(answer, InferenceFailure)
    assert answer.reason == "NONFINITE_LOGITS"


def test_the_local_queue_merges_what_waits(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, new_answers: Any
) -> None:
    engine = load(encoder_folder, write_head(tmp_path / "head"))
    queue = ClassifierQueue(engine, max_batch_size=4)
    asked = [new_answers() for _ in range(9)]
    for index, answers in enumerate(asked):
        queue.submit({"text": texts(*TEXTS[: 1 + index % 3]).reshape(-1, 1)}, answers)
    expected = engine.classify(TEXTS).probabilities
    for index, answers in enumerate(asked):
        np.testing.assert_allclose(answers.wait()[0]["probabilities"], expected[: 1 + index % 3], atol=1e-6)
    too_many = new_answers()
    queue.submit({"text": texts(*TEXTS).reshape(-1, 1)}, too_many)
    with pytest.raises(InferenceFailure, match="up to 4 texts"):
        too_many.wait()
    queue.close()
    assert engine._metrics.values[seams.CLASSIFIED_TEXTS] > 9

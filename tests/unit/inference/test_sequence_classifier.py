import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.inference.contract import ClassifierArguments
from services.inference.engines import classifier_models, seams, sequence_classifier
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
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
    assert classified.num_windows.tolist() == [1] * 5
    assert classified.engine_seconds > 0


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


def test_a_bad_request_fails_alone(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, new_answers: Any
) -> None:
    engine = load(encoder_folder, write_head(tmp_path / "head"), max_batch_size=4)
    asked = {
        "TEXT_NOT_UTF8": {"text": np.array([b"\xff"], dtype=object)},
        "": {"text": texts("a", "b")},
        "TENSOR_MISSING": {},
        "TEXTS_EMPTY": {"text": np.empty(0, dtype=object)},
        "BATCH_TOO_LARGE": {"text": texts(*TEXTS)},
        "TENSOR_INVALID": {"text": texts("a"), "max_windows": np.array([0], dtype=np.uint32)},
    }
    answers = {reason: new_answers() for reason in asked}
    for reason, tensors in asked.items():
        engine.submit(tensors, answers[reason])
    [good] = answers.pop("").wait()
    assert {name: each.shape for name, each in good.items()} == {
        "probabilities": (2, 3), "num_tokens": (2,), "num_windows": (2,), "truncated": (2,), "unknown_share": (2,),
        "engine_seconds": (1,),
    }  # fmt: skip
    for reason, each in answers.items():
        with pytest.raises(InferenceFailure) as caught:
            each.wait()
        assert caught.value.reason == reason
    engine.close()


def test_a_model_that_gives_no_numbers_fails_its_requests(
    load: Any, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_models, "_activate", lambda logits, activation: logits * float("nan"))
    with pytest.raises(InferenceFailure) as caught:
        load(encoder_folder, write_head(tmp_path / "head")).classify(["a"])
    assert caught.value.reason == "NONFINITE_LOGITS"


def test_a_pass_that_fails_takes_only_its_own_requests_with_it(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, new_answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()

    def fails_once(logits: torch.Tensor, activation: str) -> torch.Tensor:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("no")
        return logits.sigmoid()

    monkeypatch.setattr(classifier_models, "_activate", fails_once)
    engine = load(encoder_folder, write_head(tmp_path / "head"), max_num_batched_tokens=16)
    first, second = new_answers(), new_answers()
    engine.submit({"text": texts("a")}, first)
    engine.submit({"text": texts("b")}, second)
    with pytest.raises(InferenceFailure) as caught:
        first.wait()
    assert caught.value.reason == "ENGINE_FAILED"
    assert len(second.wait()) == 1
    engine.close()


class Panic(BaseException):
    """As what native code raises."""


@pytest.mark.parametrize("problem", [RuntimeError("no"), Panic("no")])
def test_a_text_that_cannot_be_read_fails_its_own_request_alone(
    load: Any,
    encoder_folder: Path,
    tmp_path: Path,
    texts: Any,
    new_answers: Any,
    monkeypatch: pytest.MonkeyPatch,
    problem: BaseException,
) -> None:
    engine = load(encoder_folder, write_head(tmp_path / "head"))
    is_busy, may_go_on = threading.Event(), threading.Event()
    read = engine._reader.read

    def reads(asked: list[str], max_windows: int) -> Any:
        if "wait" in asked:
            is_busy.set()
            may_go_on.wait(30)
        if "poison" in asked:
            raise problem
        return read(asked, max_windows)

    monkeypatch.setattr(engine._reader, "read", reads)
    first, bad, good = new_answers(), new_answers(), new_answers()
    engine.submit({"text": texts("wait")}, first)
    assert is_busy.wait(30)
    engine.submit({"text": texts("poison")}, bad)
    engine.submit({"text": texts("a")}, good)
    may_go_on.set()
    with pytest.raises(InferenceFailure) as caught:
        bad.wait()
    assert caught.value.reason == "ENGINE_FAILED"
    assert len(first.wait()) == len(good.wait()) == 1
    alone = new_answers()
    engine.submit({"text": texts("poison")}, alone)
    with pytest.raises(InferenceFailure):
        alone.wait()
    assert len(engine.classify(["a"]).probabilities) == 1
    engine.close()


def test_an_engine_that_died_refuses_what_waits_and_what_comes(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, new_answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panics(chosen: Any) -> Any:
        raise Panic("no")

    engine = load(encoder_folder, write_head(tmp_path / "head"))
    monkeypatch.setattr(engine, "_probabilities", panics)
    for _ in range(2):
        answers = new_answers()
        engine.submit({"text": texts("a")}, answers)
        with pytest.raises(InferenceFailure) as caught:
            answers.wait()
        assert caught.value.reason == "INFERENCE_STOPPING"
    engine.close()


def test_requests_that_wait_together_get_what_they_would_alone(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, new_answers: Any
) -> None:
    engine = load(encoder_folder, write_head(tmp_path / "head"))
    asked = [new_answers() for _ in range(9)]
    for index, answers in enumerate(asked):
        engine.submit({"text": texts(*TEXTS[: 1 + index % 3])}, answers)
    expected = engine.classify(TEXTS).probabilities
    for index, answers in enumerate(asked):
        np.testing.assert_allclose(answers.wait()[0]["probabilities"], expected[: 1 + index % 3], atol=1e-6)
    engine.close()
    assert engine._metrics.values[seams.CLASSIFIED_TEXTS] > 9
    late = new_answers()
    engine.submit({"text": texts("a")}, late)
    with pytest.raises(InferenceFailure, match="unloaded"):
        late.wait()


def test_a_long_text_is_read_whole_in_windows(load: Any, encoder_folder: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head")
    engine = load(encoder_folder, head)
    long = " ".join(f"fox {number}" for number in range(40))
    whole = engine.classify(["a", long, "fox"], max_windows=64)
    assert whole.num_windows[0] == whole.num_windows[2] == 1
    assert whole.num_windows[1] > 3
    assert not whole.truncated.any()
    assert len(whole.probabilities) == len(whole.num_tokens) == whole.num_windows.sum()
    assert (whole.num_tokens[1 : 1 + whole.num_windows[1]] == 32).all()
    np.testing.assert_allclose(whole.probabilities[1], engine.classify([long]).probabilities[0], atol=1e-6)
    cut = engine.classify([long], max_windows=2)
    assert (cut.num_windows.tolist(), cut.truncated.tolist()) == ([2], [True])


def test_shorter_windows_stand_behind_a_first_one_that_is_what_is_read_of_a_text_that_is_cut(
    load: Any, encoder_folder: Path, tmp_path: Path
) -> None:
    engine = load(encoder_folder, write_head(tmp_path / "head"), window_tokens=16)
    long = " ".join(f"fox {number}" for number in range(40))
    whole = engine.classify([long], max_windows=64)
    assert whole.num_tokens[0] == 32
    assert (whole.num_tokens[1:] == 16).all()
    np.testing.assert_allclose(whole.probabilities[0], engine.classify([long]).probabilities[0], atol=1e-6)


def test_a_caller_that_gave_up_is_not_computed_for(
    load: Any, encoder_folder: Path, tmp_path: Path, texts: Any, new_answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_classifier, "_PATIENCE_SECONDS", 0.0)
    engine = load(encoder_folder, write_head(tmp_path / "head"))
    gone = new_answers()
    gone.is_gone = True
    engine.submit({"text": texts("a")}, gone)
    assert gone.wait() == []
    engine.close()
    values = engine._metrics.values
    assert (values[seams.CANCELLED_REQUESTS], values[seams.CLASSIFIED_TEXTS]) == (1, 0)

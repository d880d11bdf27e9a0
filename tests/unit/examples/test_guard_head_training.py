"""The training texts of the guard's head, its fit, and the head that is committed."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.guard_head.corpus import HAZARDS, Example, load_corpus, load_tweets
from examples.guard_head.regression import fit
from examples.guard_head.train import ENCODER_SHA256, LABELS, MAX_TOKENS, assemble, unsafe_probability, write_guard
from services.safety.guard_file import check_labels, read_guard_file
from services.safety.guard_models import EMBEDDED_FOLDER
from services.safety.reading import LabelReader


def test_the_corpus_is_the_same_for_the_same_seed() -> None:
    first, second, other = load_corpus(7), load_corpus(7), load_corpus(8)
    assert first == second
    assert [each.text for each in first] != [each.text for each in other]


def test_the_corpus_is_filled_in_and_consistent() -> None:
    corpus = load_corpus(7)
    assert len({each.text for each in corpus}) == len(corpus) > 5000
    for example in corpus:
        assert "{" not in example.text
        assert example.hazards <= set(HAZARDS)
    for hazard in HAZARDS:
        assert sum(hazard in each.hazards for each in corpus) >= 50
    harmless = sum(not each.hazards for each in corpus)
    assert 0.4 < harmless / len(corpus) < 0.7


def test_frames_tell_nothing_about_the_label() -> None:
    corpus = load_corpus(7)
    opened = [each for each in corpus if each.text.startswith("Explain step by step how to ")]
    assert 0.3 < sum(bool(each.hazards) for each in opened) / len(opened) < 0.7


def test_tweets_keep_unjudged_hazards_unknown(data_dir: Path) -> None:
    tweets = load_tweets(data_dir)
    assert len(tweets) == 5000
    assert all("sexual_content" in each.unknown for each in tweets)
    assert {each.hazards for each in tweets} == {frozenset({"hate"}), frozenset({"harassment"}), frozenset()}


def test_targets_weights_and_folds() -> None:
    examples = [
        Example("a", frozenset({"hate"}), "g", "corpus"),
        Example("b", frozenset(), "g", "corpus"),
        Example("c", frozenset({"hate"}), "t1", "tweets", frozenset({"harassment"})),
        Example("d", frozenset(), "t2", "tweets"),
    ]
    data = assemble(examples, np.zeros((4, 2), np.float32))
    assert data.is_unsafe.tolist() == [True, False, True, False]
    assert data.targets[0, LABELS.index("hate")] == 1
    assert np.isnan(data.targets[2, LABELS.index("harassment")])
    assert data.folds[0] == data.folds[1]
    assert data.weights.tolist() == [1.0, 1.0, 0.5, 0.5]


def test_the_fit_is_the_minimum() -> None:
    chance = np.random.default_rng(0)
    inputs = chance.normal(size=(400, 3)).astype(np.float32)
    targets = (inputs @ np.array([2.0, -1.0, 0.0]) + chance.normal(size=400) > 0).astype(np.float32)[:, None]
    weights, l2 = np.ones(400), 1e-3
    head = fit(inputs, targets, weights, l2=l2)
    # At the minimum the gradient vanishes: mean (p - y) x + 2 l2 w = 0 and mean (p - y) = 0.
    errors = head.probabilities(inputs)[:, 0] - targets[:, 0]
    gradient = (errors[:, None] * inputs).mean(0) + 2 * l2 * head.weight[0]
    assert np.abs(gradient).max() < 1e-4
    assert abs(errors.mean()) < 1e-4


def test_unknown_labels_do_not_count() -> None:
    inputs = np.array([[1.0], [-1.0], [5.0]], np.float32)
    known = np.array([[1.0], [0.0], [np.nan]], np.float32)
    with_unknown = fit(inputs, known, np.ones(3), l2=0.1)
    without = fit(inputs[:2], known[:2], np.ones(2), l2=0.1)
    np.testing.assert_allclose(with_unknown.weight, without.weight, atol=1e-5)


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    inputs = np.eye(4, dtype=np.float32)
    targets = np.tile(np.array([[1.0], [0.0], [1.0], [0.0]], np.float32), (1, len(LABELS)))
    write_guard(tmp_path, fit(inputs, targets, np.ones(4), l2=0.1), {"threshold": 0.4})
    assert load_file(tmp_path / "head.safetensors")["weight"].shape == (len(LABELS), 4)
    assert json.loads((tmp_path / "calibration.json").read_text()) == {"threshold": 0.4}


def test_the_committed_head_fits_its_guard_file() -> None:
    head = json.loads((EMBEDDED_FOLDER / "head.json").read_text())
    tensors = load_file(EMBEDDED_FOLDER / "head.safetensors")
    guard = read_guard_file(EMBEDDED_FOLDER / "guard.yaml")
    assert tensors["weight"].shape == (len(LABELS), 384)
    assert tensors["bias"].shape == (len(LABELS),)
    assert tuple(head["labels"]) == LABELS
    assert (head["encoder_sha256"], head["max_tokens"], head["activation"]) == (ENCODER_SHA256, MAX_TOKENS, "sigmoid")
    check_labels(EMBEDDED_FOLDER / "guard.yaml", guard, LABELS)
    assert set(guard.categories) == set(HAZARDS)
    assert all(guard.meaning(label) for label in LABELS)
    assert guard.threshold == json.loads((EMBEDDED_FOLDER / "calibration.json").read_text())["threshold"]


def test_training_and_service_read_the_unsafe_probability_alike() -> None:
    from services.safety.guard import LabelledText

    rows = np.random.default_rng(1).random((20, len(LABELS)))
    reader = LabelReader(LABELS, read_guard_file(EMBEDDED_FOLDER / "guard.yaml"))
    served = [reader.read(LabelledText(row.tolist(), 9, False)).unsafe_probability for row in rows]
    assert served == pytest.approx(unsafe_probability(rows).tolist())

"""The folder of an n-gram classifier: it comes back as it was written, and nothing that is wrong with it passes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from services.runtime.errors import AlreadyExistsError
from services.safety import ngram_file, ngram_model
from services.safety.digests import json_digest
from services.safety.encoder import file_sha256
from services.safety.errors import GuardFileError, NgramsNotInstalledError
from services.safety.ngram_file import DESCRIPTION_FILE, WEIGHTS_FILE, Teacher, read_ngrams
from tests.fakes.ngrams import SENTENCES, tiny_ngrams, write_tiny_ngrams

TEXTS = [text for text, _ in SENTENCES]
Content = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    teacher = Teacher(name="guards/large", weights_digest="w", template_digest="t", calibration_digest="c")
    write_tiny_ngrams(tmp_path / "small", threshold=0.4, teacher=teacher, training={"texts": 32})
    return tmp_path / "small"


def rewrite(folder: Path, change: Callable[[Content], object]) -> None:
    """Change the description and sign it again, as somebody would who knows how."""
    file = folder / DESCRIPTION_FILE
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    content["digest"] = json_digest({key: value for key, value in content.items() if key != "digest"})
    file.write_text(json.dumps(content), encoding="utf-8")


def rewrite_numbers(folder: Path, **changes: Any) -> None:
    """Change the numbers, with their digest."""
    file = folder / WEIGHTS_FILE
    numbers = {name: each for name, each in {**load_file(file), **changes}.items() if each is not None}
    save_file(numbers, file)
    rewrite(folder, lambda content: content.update(weights_sha256=file_sha256(file)))


def problem(folder: Path) -> GuardFileError:
    with pytest.raises(GuardFileError) as caught:
        read_ngrams(folder)
    assert str(folder) in caught.value.message
    return caught.value


def test_a_classifier_comes_back_as_it_was(folder: Path) -> None:
    described, model = read_ngrams(folder)
    assert np.array_equal(model.unsafe_probabilities(TEXTS), tiny_ngrams().unsafe_probabilities(TEXTS))
    assert model.known_words == tiny_ngrams().known_words
    assert (described.threshold, described.training) == (0.4, {"texts": 32})
    assert described.teacher is not None
    assert described.teacher.name == "guards/large"
    assert sorted(each.name for each in folder.parent.iterdir()) == ["small"]


def test_a_folder_is_not_written_twice(folder: Path) -> None:
    before = (folder / DESCRIPTION_FILE).read_bytes()
    with pytest.raises(AlreadyExistsError, match="is there already"):
        write_tiny_ngrams(folder)
    assert (folder / DESCRIPTION_FILE).read_bytes() == before


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        write_tiny_ngrams(tmp_path / "small", threshold=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [DESCRIPTION_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    error = problem(folder)
    assert error.reason == "GUARD_FILE_NOT_FOUND"
    assert name in error.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": ' * 100_000])
def test_a_damaged_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / DESCRIPTION_FILE).write_bytes(content)
    assert problem(folder).reason == "GUARD_FILE_INVALID"


@pytest.mark.parametrize("name", ["threshold", "training", "labels", "least_known_share"])
def test_a_changed_description_is_refused(folder: Path, name: str) -> None:
    file = folder / DESCRIPTION_FILE
    content = json.loads(file.read_text(encoding="utf-8"))
    content[name] = {"threshold": 0.9, "training": {}, "labels": ["unsafe"] * 1, "least_known_share": 0.0}[name]
    content["description"] += " Changed."
    file.write_text(json.dumps(content), encoding="utf-8")
    assert problem(folder).reason == "NGRAMS_DIGEST_WRONG"


@pytest.mark.parametrize(
    ("change", "explanation"),
    [
        ({"threshold": 0}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"format": "evalfleet/ngrams-guard/2"}, "format"),
        ({"labels": []}, "labels"),
        ({"labels": ["unsafe", "unsafe"]}, "every one may occur once"),
        ({"labels": ["safe"]}, "'safe' is none here"),
        ({"labels": ["unsafe", "hate"]}, "categories: must be those of the labels"),
        ({"categories": {"hate": {"title": "Hate"}}}, "categories: must be those of the labels"),
        (
            {"labels": ["unsafe", "hate"], "categories": {"hate": {"title": "Hate"}}},
            "taxonomy: must be named",
        ),
        ({"aspects": []}, "aspects"),
        ({"surprise": 1}, "surprise"),
        ({"ngrams": {"words": [1, 2], "characters": [2, 5], "features": 1000, "max_characters": 600}}, "power of two"),
        ({"ngrams": {"words": [2, 1], "characters": [2, 5], "features": 1024, "max_characters": 600}}, "words: must"),
        ({"ngrams": {"words": [1, 2], "characters": [2, 5], "features": 2**30, "max_characters": 600}}, "features"),
    ],
)
def test_a_wrong_description_is_explained(folder: Path, change: Content, explanation: str) -> None:
    rewrite(folder, lambda content: content.update(change))
    error = problem(folder)
    assert error.reason == "GUARD_FILE_INVALID"
    assert explanation in error.message


def test_other_numbers_than_described_are_refused(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert problem(folder).reason == "NGRAMS_WEIGHTS_DIFFER"


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        ({"bias": None}, "bias is missing"),
        ({"weight": np.zeros((2048, 2), np.float32)}, "weight is float32 [2048, 2], must be float32 [2048, 1]"),
        ({"weight": np.zeros((2048, 1), np.float64)}, "weight is float64"),
        ({"weight": np.full((2048, 1), np.nan, np.float32)}, "weight holds what is no number"),
        ({"bias": np.full(1, np.inf, np.float32)}, "bias holds what is no number"),
        ({"scale": np.full(2048, np.nan, np.float32)}, "scale holds what is no number"),
        ({"known_words": np.zeros(3, np.int64)}, "known_words must be"),
        ({"known_words": None}, "known_words must be"),
    ],
)
def test_unusable_numbers_are_refused(folder: Path, changes: Content, explanation: str) -> None:
    rewrite_numbers(folder, **changes)
    error = problem(folder)
    assert error.reason == "NGRAMS_WEIGHTS_INVALID"
    assert explanation in error.message


def test_what_is_no_safetensors_file_is_refused(folder: Path) -> None:
    (folder / WEIGHTS_FILE).write_bytes(b"\x80\x04no pickle is read here")
    rewrite(folder, lambda content: content.update(weights_sha256=file_sha256(folder / WEIGHTS_FILE)))
    assert problem(folder).reason == "NGRAMS_WEIGHTS_INVALID"


def test_a_library_that_counts_otherwise_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_file, "hashing_digest", lambda settings: "another")
    error = problem(folder)
    assert error.reason == "NGRAMS_HASHED_OTHERWISE"


def test_a_missing_library_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    ngram_model._vectorizer.cache_clear()
    with pytest.raises(NgramsNotInstalledError, match=r"evalfleet-services\[ngrams\]"):
        read_ngrams(folder)

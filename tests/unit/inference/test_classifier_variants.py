"""A classifier computed by other runtimes says what PyTorch says."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.inference.contract import SAMPLES_FILE, ClassifierArguments, VariantName
from services.inference.engines.classifier_models import load_classifier
from services.inference.engines.classifier_variants import converted
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
from tests.fakes.classifier_head import write_head

TEXTS = ["The quick brown fox", "a", "Question: Which planet is the largest? A. Mars B. Jupiter", "fox " * 60]
PACKAGES: dict[VariantName, tuple[str, ...]] = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "onnxruntime-int8": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "openvino-int8": ("openvino", "nncf"),
}


@pytest.fixture
def head(tmp_path: Path) -> Path:
    folder = write_head(tmp_path / "head")
    (folder / SAMPLES_FILE).write_text("\n".join(TEXTS * 4))
    return folder


@pytest.mark.parametrize("variant", PACKAGES)
def test_a_variant_gives_the_probabilities_of_pytorch(
    encoder_folder: Path, head: Path, new_metrics: Any, variant: VariantName
) -> None:
    for package in PACKAGES[variant]:
        pytest.importorskip(package)
    told = ClassifierArguments(model=str(encoder_folder), head=str(head))
    expected = SequenceClassifierEngine.load(told, new_metrics()).classify(TEXTS)
    found = SequenceClassifierEngine.load(replace(told, variant=variant), new_metrics()).classify(TEXTS)
    tolerance = 0.15 if variant.endswith("-int8") else 1e-4
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=tolerance)
    assert found.num_tokens.tolist() == expected.num_tokens.tolist()


@pytest.mark.parametrize("variant", PACKAGES)
def test_a_missing_package_is_named(
    encoder_folder: Path, head: Path, variant: VariantName, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnx", "onnxruntime", "openvino", "nncf"):
        for module in [each for each in sys.modules if each.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
    told = ClassifierArguments(model=str(encoder_folder), head=str(head), variant=variant)
    with pytest.raises(InferenceFailure) as caught:
        converted(load_classifier(told), told)
    assert caught.value.reason == "VARIANT_NOT_INSTALLED"


def test_a_variant_needs_a_cpu(encoder_folder: Path, head: Path) -> None:
    told = ClassifierArguments(model=str(encoder_folder), head=str(head), variant="onnxruntime")
    loaded = replace(load_classifier(told), device=torch.device("meta"))
    with pytest.raises(InferenceFailure) as caught:
        converted(loaded, told)
    assert caught.value.reason == "VARIANT_NOT_POSSIBLE"

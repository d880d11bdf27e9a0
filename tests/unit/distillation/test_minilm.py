"""A student on an encoder: it learns, and its folder is a guard that says what it said."""

import sys
from pathlib import Path

import numpy as np
import pytest
from evalfleet.results import Guard, GuardReference

from examples.guard_head.scoring import NoMetrics
from services import distillation
from services.distillation import minilm
from services.distillation.errors import NotInstalledError
from services.distillation.minilm import MinilmStudent
from services.distillation.students import Origin
from services.distillation.tuning import Recipe
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.runtime.errors import AlreadyExistsError, InvalidArgumentError
from services.safety import guard_models
from services.safety.guard_models import embedded_guard
from services.safety.judgement import Aspect

TEXTS = [f"{word} {number}" for number in range(32) for word in ("fox", "Jupiter")]
TARGETS = np.array([0.9, 0.1] * 32)
QUICK = Recipe(rank=4, alpha=8, epochs=6, batch=16, learning_rate=1e-2, max_tokens=32)
TEACHER = Guard("guards/large", "Large.", GuardReference("guards/large", "w", "t", "c", "e", "d"), (), (), 0.4, None)


@pytest.fixture
def student(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> MinilmStudent:
    """On a tiny encoder, whose weights are not those that the embedded guard has."""
    for module in (minilm, guard_models):
        monkeypatch.setattr(module, "find_encoder", lambda told, sha256: encoder_folder)
    return MinilmStudent(recipe=QUICK)


def test_it_learns_and_is_served_as_it_was_tuned(student: MinilmStudent, tmp_path: Path) -> None:
    student.fit(TEXTS, TARGETS)
    said = student.says(["Jupiter 3", "fox 3", "a fox and more", ""])
    assert said.probabilities[0] < 0.5 < said.probabilities[1]
    assert said.probabilities[:2] == pytest.approx([0.1, 0.9], abs=0.1)
    assert said.judged.tolist()[:3] == [True] * 3

    student.save(tmp_path / "small", Origin("small", TEACHER, ("prompt",), {"texts": 64}))
    guard = embedded_guard(None, "float32", folder=tmp_path / "small")
    assert (guard.about.name, guard.about.default_threshold) == ("guards/small", 0.5)
    assert (guard.about.aspects, guard.about.categories) == ((Aspect.PROMPT,), ())
    engine = SequenceClassifierEngine.load(guard.arguments, NoMetrics())
    served = engine.classify(["Jupiter 3", "fox 3", "a fox and more"]).probabilities
    np.testing.assert_allclose(served[:, 0], said.probabilities[:3], atol=0.01)
    assert student.entry("small", Path("guards/small")) == "{name: small, kind: classifier, checkpoint: guards/small}"
    with pytest.raises(AlreadyExistsError):
        student.save(tmp_path / "small", Origin("small", TEACHER, ("prompt",)))


def test_steps_are_reported(encoder_folder: Path, student: MinilmStudent) -> None:
    steps: list[tuple[int, int]] = []
    MinilmStudent(recipe=QUICK, report=lambda step, count, loss: steps.append((step, count))).fit(TEXTS, TARGETS)
    assert steps == [(number, 24) for number in range(1, 25)]


def test_targets_that_teach_nothing_are_refused(student: MinilmStudent) -> None:
    with pytest.raises(InvalidArgumentError, match="one side"):
        student.fit(TEXTS, np.full(64, 0.9))


def test_missing_libraries_are_named_with_their_extra(student: MinilmStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.distillation.tuning", None)
    monkeypatch.delattr(distillation, "tuning")
    with pytest.raises(NotInstalledError, match=r"evalfleet-services\[inference\]"):
        MinilmStudent()

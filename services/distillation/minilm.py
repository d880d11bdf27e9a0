"""A student that is an adapter and a head on the embedded guard's encoder, served by Triton like that guard."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from services.distillation.errors import NotInstalledError
from services.distillation.students import THRESHOLD, Origin, Said
from services.distillation.targets import checked_targets
from services.safety.encoder import HUB_REPOSITORY, find_encoder
from services.safety.guard_file import CALIBRATION_FILE, UNSAFE_LABEL
from services.safety.guard_models import EMBEDDED_FOLDER, GUARD_FILE, HEAD_FILE
from services.safety.new_folder import new_folder

if TYPE_CHECKING:
    from services.distillation.tuning import Recipe, TunedEncoder

_BATCH: Final = 64
_SPECIAL_TOKENS: Final = 2
"""[CLS] and [SEP]: a text of which the tokenizer keeps nothing else was not judged."""


class MinilmStudent:
    """Implements ``Student`` by tuning the public encoder that the embedded guard has.

    Args:
        encoder: its folder; None looks for it.
        recipe: how it is tuned; None: as the embedded guard.
        report: called after each step of a fit with its number, the number of steps, and the loss.

    Raises:
        EncoderError: the encoder is missing or another one.
        NotInstalledError: what tunes it is not there.
    """

    def __init__(
        self,
        encoder: Path | None = None,
        recipe: "Recipe | None" = None,
        *,
        report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    ) -> None:
        try:
            from services.distillation import tuning
        except ImportError as error:
            raise NotInstalledError(
                f"tuning an encoder needs torch and peft ({error}): pip install 'evalfleet-services[inference]'"
            ) from error
        self._embedded = json.loads((EMBEDDED_FOLDER / HEAD_FILE).read_text(encoding="utf-8"))
        self._encoder = find_encoder(encoder, self._embedded["encoder_sha256"])
        self._recipe = recipe or tuning.Recipe()
        self._report = report
        self._tuned: TunedEncoder | None = None

    @property
    def tuned(self) -> "TunedEncoder":
        """The encoder of the last fit."""
        if self._tuned is None:
            raise RuntimeError("a student says nothing before it has learnt something")
        return self._tuned

    def fit(self, texts: Sequence[str], targets: NDArray[np.float64]) -> None:
        """Tune the public encoder anew; takes minutes."""
        from services.distillation.tuning import Lesson, tune

        checked_targets(UNSAFE_LABEL, targets, len(texts))
        lessons = [Lesson(text, (float(target),)) for text, target in zip(texts, targets, strict=True)]
        self._tuned = tune(self._encoder, lessons, self._recipe, report=self._report)

    def says(self, texts: Sequence[str]) -> Said:
        """Return what it says of texts; of a long one, of its beginning."""
        import torch

        from services.distillation.tuning import padding_tokenizer

        tokenizer = padding_tokenizer(self._encoder)
        limit = int(self._embedded["max_tokens"])
        probabilities = np.zeros(len(texts))
        judged = np.zeros(len(texts), dtype=np.bool_)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            tokens = tokenizer(
                [texts[row] for row in rows], truncation=True, max_length=limit, padding=True, return_tensors="pt"
            )
            asked = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                probabilities[rows] = self.tuned(asked).sigmoid().amax(dim=1).numpy()
            judged[rows] = asked["attention_mask"].sum(dim=1).numpy() > _SPECIAL_TOKENS
        return Said(probabilities, judged)

    def save(self, folder: Path, origin: Origin) -> None:
        """Write the folder of a guard of the kind ``classifier``: adapter, head, and what describes them."""
        head = {
            "labels": [UNSAFE_LABEL],
            "activation": "sigmoid",
            **{name: self._embedded[name] for name in ("pooling", "normalize", "max_tokens", "encoder_sha256")},
            "encoder": HUB_REPOSITORY,
        }
        guard = {
            "name": origin.name,
            "description": f"The embedded guard's encoder, tuned on what {origin.teacher.name} says of texts.",
            "aspects": list(origin.aspects),
            "special_tokens": _SPECIAL_TOKENS,
            "scripts": {"read": ["Latin"]},
        }
        calibration = {"threshold": THRESHOLD, "teacher": origin.teacher_reference(), "training": dict(origin.training)}
        with new_folder(folder) as made:
            self.tuned.save(made)
            (made / GUARD_FILE).write_text(yaml.safe_dump(guard, sort_keys=False), encoding="utf-8")
            for name, content in ((HEAD_FILE, head), (CALIBRATION_FILE, calibration)):
                (made / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def entry(self, name: str, folder: Path) -> str:
        """Return its entry of the guards file."""
        return f"{{name: {name}, kind: classifier, checkpoint: {folder}}}"

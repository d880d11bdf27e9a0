"""Checkpoint folders: written whole or not at all, and known by the recipe that made them."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

MANIFEST = "training.json"


@dataclass(frozen=True, slots=True)
class SkillScores:
    """Accuracies on items that training never showed, each from 0 to 1."""

    arithmetic: float
    multiple_choice: float
    refusal: float


@dataclass(frozen=True, slots=True)
class FinishedCheckpoint:
    """One saved checkpoint.

    Attributes:
        name: Its folder's name, ``step-0120``.
        step: Optimizer steps taken.
        scores: What it could do when it was saved.
    """

    name: str
    step: int
    scores: SkillScores


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished training run left behind; it is written last, so its presence means that all is there."""

    recipe_digest: str
    checkpoints: tuple[FinishedCheckpoint, ...]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the manifest of a finished run; None where there is none, it is broken, or a checkpoint is missing."""
        try:
            data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            checkpoints = tuple(
                FinishedCheckpoint(row["name"], row["step"], SkillScores(**row["scores"]))
                for row in data["checkpoints"]
            )
            manifest = cls(data["recipe_digest"], checkpoints)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        complete = all((folder / checkpoint.name / "model.safetensors").is_file() for checkpoint in checkpoints)
        return manifest if complete else None

    def write(self, folder: Path) -> None:
        """Write the manifest beside the checkpoints, atomically."""
        content = {"recipe_digest": self.recipe_digest, "checkpoints": [asdict(row) for row in self.checkpoints]}
        partial = folder / f".{MANIFEST}.{os.getpid()}"
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / MANIFEST)


def digest_recipe(options: Mapping[str, object]) -> str:
    """Digest of all that decides the weights: the sources of this package and the options of the run."""
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True).encode())
    package = Path(__file__).parent
    for source in sorted([*package.glob("*.py"), *package.glob("*.txt")]):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def checkpoint_name(step: int) -> str:
    """The folder name of a step."""
    return f"step-{step:04d}"


def save_checkpoint(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary Hugging Face checkpoint to ``folder``, replacing what stood there.

    All files are written to a neighbouring folder that is then renamed: a reader sees a whole checkpoint or none.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        model.save_pretrained(partial)
        # The template inside tokenizer_config.json, where servers of every age look for it.
        tokenizer.save_pretrained(partial, save_jinja_files=False)
        for file in partial.iterdir():
            file.chmod(0o644)  # the weights come readable by their owner alone, but servers run as other users
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def discard_checkpoints(folder: Path) -> None:
    """Remove what an earlier or interrupted run of this example left; the manifest goes first."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for pattern in ("step-[0-9]*", ".step-[0-9]*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover)

"""Checkpoints that a trainer may remove before the fleet has read them: their files by a second name."""

import itertools
import os
import shutil
from pathlib import Path

from evalfleet.training.checkpoint_results import PassedCheckpoint

# What resuming a training needs and evaluating a checkpoint does not; the optimizer is twice as large as the model.
_OF_THE_TRAINER = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args")


def keep_files(checkpoint: Path, folder: Path) -> Path:
    """Link the files of a checkpoint that a fleet reads into ``folder/NAME``, or ``NAME-2``…, and return that folder.

    Links take no space and no time; they need both folders on one file system.

    Raises:
        OSError: the checkpoint is gone, or its file system has no links.
    """
    kept = _new_folder(folder, checkpoint.name)
    for each in checkpoint.iterdir():
        if each.is_file() and not each.name.startswith(_OF_THE_TRAINER):
            os.link(each, kept / each.name)
    return kept


def is_overwritten(passed: PassedCheckpoint, checkpoint: str) -> bool:
    """Whether saving ``checkpoint`` has changed the weights of one that passed: most writers write into its files."""
    if passed.checkpoint != checkpoint:
        return False
    kept = Path(passed.kept or checkpoint)
    try:
        return any(each.samefile(Path(checkpoint) / each.name) for each in kept.iterdir())
    except OSError:
        return not passed.kept


def _new_folder(folder: Path, name: str) -> Path:
    """Make a folder of its own for each save: one step may be saved twice before the fleet has read it once."""
    for number in itertools.count(1):
        kept = folder / (name if number == 1 else f"{name}-{number}")
        try:
            kept.mkdir(parents=True)
        except FileExistsError:
            continue
        return kept
    raise AssertionError("numbers do not end")


def forget_files(kept: Path) -> None:
    """Remove a folder of links; one that is not there is no error."""
    shutil.rmtree(kept, ignore_errors=True)

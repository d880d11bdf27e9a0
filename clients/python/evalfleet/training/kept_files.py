"""Checkpoints that a trainer may remove before the fleet has read them: their files by a second name."""

import os
import shutil
from pathlib import Path

# What resuming a training needs and evaluating a checkpoint does not; the optimizer is twice as large as the model.
_OF_THE_TRAINER = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args")


def keep_files(checkpoint: Path, folder: Path) -> Path:
    """Link the files of a checkpoint that a fleet reads into ``folder/NAME``, and return that folder.

    Links take no space and no time; they need both folders on one file system.

    Raises:
        OSError: the checkpoint is gone, or its file system has no links.
    """
    kept = folder / checkpoint.name
    forget_files(kept)
    kept.mkdir(parents=True)
    for each in checkpoint.iterdir():
        if each.is_file() and not each.name.startswith(_OF_THE_TRAINER):
            os.link(each, kept / each.name)
    return kept


def forget_files(kept: Path) -> None:
    """Remove a folder of links; one that is not there is no error."""
    shutil.rmtree(kept, ignore_errors=True)

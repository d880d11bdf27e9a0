"""Train the tiny policy and save checkpoints of rising skill: ``python -m examples.tiny_policy.train --out DIR``."""

import os
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers.utils import logging as transformers_logging

from examples.tiny_policy.checkpoints import (
    FinishedCheckpoint,
    Manifest,
    checkpoint_name,
    digest_recipe,
    discard_checkpoints,
    save_checkpoint,
)
from examples.tiny_policy.corpus import draw_documents
from examples.tiny_policy.model import build_model
from examples.tiny_policy.skills import SkillExam
from examples.tiny_policy.tokenizer import train_tokenizer
from examples.tiny_policy.training import Budget, Trainer

DEFAULT_SECONDS = 150.0
SAVE_AT = (0.15, 0.5, 1.0)  # shares of the budget
_MOST_THREADS = 4  # such small matrices gain nothing from more
_VOCABULARY_DOCUMENTS = 4000
_VOCABULARY_STEP = -1  # a stream of documents that no training step uses

_EPILOG = """
\b
Examples:
  python -m examples.tiny_policy.train --out .cache/tiny_policy
  python -m examples.tiny_policy.train --out /tmp/tiny --steps 40      # poor, but there in seconds
  python -m examples.tiny_policy.train --out /tmp/tiny --steps 900 --seed 7
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the checkpoints (step-XXXX/). Finished ones of the same recipe are kept, others are replaced.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    help=f"Train for so many seconds (default {DEFAULT_SECONDS:.0f}); tokenizer, exams and saving come on top, "
    "about 20 seconds on two cores.",
)
@click.option("--steps", type=click.IntRange(min=3), help="Train for so many steps instead: reproducible for a seed.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the weights and of the documents.")
@click.option(
    "--threads", type=click.IntRange(min=1), help=f"CPU threads (default: the cores, {_MOST_THREADS} at most)."
)
def main(out: Path, seconds: float | None, steps: int | None, seed: int, threads: int | None) -> None:
    """Train a small Llama chat model from scratch on the CPU.

    It learns sums, multiple-choice questions about a small world, and to refuse harmful requests. Three checkpoints
    are saved on the way, after 15 %, 50 % and 100 % of the budget: ordinary Hugging Face folders.
    """
    if seconds is not None and steps is not None:
        raise click.UsageError("Give --seconds or --steps, not both.")
    if steps is None and seconds is None:
        seconds = DEFAULT_SECONDS
    console = Console()
    digest = digest_recipe({"seconds": seconds, "steps": steps, "seed": seed, "save_at": SAVE_AT})
    kept = Manifest.read(out)
    if kept is not None and kept.recipe_digest == digest:
        console.print(f"Kept: {out} already holds the checkpoints of this recipe.")
        _print_table(console, kept.checkpoints)
        return
    torch.set_num_threads(threads or min(_MOST_THREADS, len(os.sched_getaffinity(0))))
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    out.mkdir(parents=True, exist_ok=True)
    discard_checkpoints(out)
    started = time.perf_counter()
    checkpoints = train(out, Budget(steps=steps, seconds=seconds), seed, console)
    Manifest(digest, tuple(checkpoints)).write(out)
    _print_table(console, checkpoints)
    console.print(f"{len(checkpoints)} checkpoints in {out} after {time.perf_counter() - started:.0f} s.")


def train(out: Path, budget: Budget, seed: int, console: Console) -> list[FinishedCheckpoint]:
    """Train within the budget, saving and examining the model at the shares of SAVE_AT."""
    torch.set_flush_denormal(True)
    tokenizer = train_tokenizer(
        list(islice(draw_documents(seed, _VOCABULARY_STEP, 0.5), _VOCABULARY_DOCUMENTS)), Random(seed)
    )
    model = build_model(tokenizer, seed)
    trainer = Trainer(model, tokenizer, seed)
    exam = SkillExam(model, tokenizer)
    checkpoints: list[FinishedCheckpoint] = []
    step = 0
    with _progress(console) as progress:
        task = progress.add_task("training", total=1.0, step=0, loss=float("nan"))
        while len(checkpoints) < len(SAVE_AT):
            started = time.perf_counter()
            loss = trainer.take_step(step, budget.fraction_spent)
            budget.charge(started)
            step += 1
            progress.update(task, completed=budget.fraction_spent, step=step, loss=loss)
            if budget.fraction_spent >= SAVE_AT[len(checkpoints)]:
                name = checkpoint_name(step)
                save_checkpoint(model, tokenizer, out / name)
                checkpoints.append(FinishedCheckpoint(name, step, exam.take()))
    return checkpoints


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  step {task.fields[step]}  loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        console=console,
    )


def _print_table(console: Console, checkpoints: Sequence[FinishedCheckpoint]) -> None:
    table = Table(title="Held-out accuracy")
    table.add_column("checkpoint")
    for heading in ("step", "arithmetic", "multiple choice", "refusal"):
        table.add_column(heading, justify="right")
    for checkpoint in checkpoints:
        scores = checkpoint.scores
        shares = (scores.arithmetic, scores.multiple_choice, scores.refusal)
        table.add_row(checkpoint.name, str(checkpoint.step), *(f"{share:.0%}" for share in shares))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

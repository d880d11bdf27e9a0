"""Trains the tiny policy: ``python -m examples.tiny_policy.train --out DIR``."""

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from examples.tiny_policy.batches import Batch, DocumentEncoder, make_batches, take_tokens
from examples.tiny_policy.corpus import draw_documents
from examples.tiny_policy.held_out import Skills, measure_skills
from examples.tiny_policy.model import build_model
from examples.tiny_policy.tokenizer import train_tokenizer

CHECKPOINT_SHARES = (0.1, 0.45, 1.0)
"""When checkpoints are saved, as shares of the budget."""

MANIFEST = "training.json"
_TOKENS_A_STEP = 512
_STEPS_A_DRAW = 8
_PEAK_LEARNING_RATE = 4e-3
_WARM_UP_SHARE = 0.04
_TOKENIZER_DOCUMENTS = 6000
# The steps are too small to gain from a second thread.
_THREADS = 1


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to train: a number of steps, and after how many seconds to stop short of it."""

    steps: int
    seconds: float

    def spent(self, step: int, began: float) -> float:
        """The share that is used up, from 0 to 1. Steps alone decide on a machine that is fast enough."""
        return min(1.0, max(step / self.steps, (time.monotonic() - began) / self.seconds))


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint and how it does on held-out items."""

    name: str
    step: int
    skills: Skills


def recipe_digest(budget: Budget, seed: int) -> str:
    """SHA-256 (hex) over everything that decides the checkpoints: this package's sources, budget and seed."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(f"{budget} {seed}".encode())
    for path in sorted([*folder.glob("*.py"), *folder.glob("*.txt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def train(out: Path, budget: Budget, seed: int, console: Console) -> list[Saved]:
    """Train and save checkpoints below ``out``; returns them in the order of training."""
    torch.set_num_threads(_THREADS)
    tokenizer = train_tokenizer(list(islice(draw_documents(seed, -1), _TOKENIZER_DOCUMENTS)), Random(seed))
    model = build_model(tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    saved: list[Saved] = []
    pending = list(CHECKPOINT_SHARES)
    began = time.monotonic()
    batches = _draw_batches(tokenizer, seed)
    with _progress(console) as progress:
        bar = progress.add_task("training", total=1.0, loss=float("nan"), step=0)
        step, spent = 0, 0.0
        while pending:
            learning_rate = _PEAK_LEARNING_RATE * min(1.0, spent / _WARM_UP_SHARE + 0.02) * (1.0 - 0.97 * spent)
            loss = _step(model, optimizer, next(batches), learning_rate)
            step += 1
            spent = budget.spent(step, began)
            progress.update(bar, completed=spent, loss=loss, step=step)
            if spent >= pending[0]:
                pending.pop(0)
                saved.append(_save(model, tokenizer, out, step))
    return saved


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Batch, learning_rate: float) -> float:
    """One update; the loss is the mean over the tokens of the answers."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    wanted = batch.targets >= 0
    # Only answers carry loss, so only they pay for the vocabulary.
    loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), batch.targets[wanted])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _draw_batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Batch]:
    """Endless batches of about ``_TOKENS_A_STEP`` tokens, short rows with short ones, in shuffled order."""
    encoder = DocumentEncoder(tokenizer)
    rng = Random(seed)
    draw = 0
    while True:
        documents = (encoder.encode(document, rng) for document in draw_documents(seed, draw))
        batches = make_batches(
            take_tokens(documents, _TOKENS_A_STEP * _STEPS_A_DRAW), _STEPS_A_DRAW, tokenizer.pad_token_id
        )
        rng.shuffle(batches)
        yield from batches
        draw += 1


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, step: int) -> Saved:
    """Measure the model and write it in one step: a reader sees a whole checkpoint or none."""
    skills = measure_skills(model, tokenizer)
    folder = out / f"step-{step:05d}"
    unfinished = out / f".{folder.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    for path in unfinished.iterdir():
        # safetensors writes for its owner alone; the fleet may run as somebody else.
        path.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return Saved(folder.name, step, skills)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        console=console,
    )


def _finished(out: Path, digest: str) -> list[Saved] | None:
    """The checkpoints of an earlier training by the same recipe, if all are still there."""
    try:
        record = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        saved = [Saved(each["name"], each["step"], Skills(**each["skills"])) for each in record["checkpoints"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = all((out / each.name / "model.safetensors").is_file() for each in saved)
    return saved if record.get("recipe") == digest and complete else None


def _record(out: Path, digest: str, saved: list[Saved]) -> None:
    checkpoints = [{"name": each.name, "step": each.step, "skills": each.skills.as_dict()} for each in saved]
    text = json.dumps({"recipe": digest, "checkpoints": checkpoints}, indent=2)
    unfinished = out / f".{MANIFEST}.unfinished"
    unfinished.write_text(f"{text}\n", encoding="utf-8")
    unfinished.rename(out / MANIFEST)


def _print_table(console: Console, saved: list[Saved]) -> None:
    names = [name.replace("_", " ") for name in Skills(0, 0, 0, 0).as_dict()]
    table = Table("checkpoint", *names, title="right answers to items that training never showed")
    for each in saved:
        table.add_row(each.name, *(f"{value:.0%}" for value in each.skills.as_dict().values()))
    console.print(table)


def main() -> None:
    """Read the arguments, train unless the checkpoints are there, and show how they do."""
    parser = argparse.ArgumentParser(
        description="Train a small Llama chat model from scratch on two CPU cores and save three checkpoints of rising "
        "skill, as ordinary Hugging Face folders. A finished training is kept: the same command then only shows it.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints, made if missing")
    parser.add_argument(
        "--steps", type=int, default=1000, help="updates of the weights; equal steps and seed give equal weights (1000)"
    )
    parser.add_argument("--seconds", type=float, default=150.0, help="stop earlier after so many seconds (150)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and order (0)")
    arguments = parser.parse_args()
    if arguments.seconds <= 0 or arguments.steps < len(CHECKPOINT_SHARES):
        parser.error("the budget is too small: --seconds must be positive, --steps at least 3")
    transformers_logging.disable_progress_bar()
    console = Console()
    budget = Budget(arguments.steps, arguments.seconds)
    digest = recipe_digest(budget, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    saved = _finished(arguments.out, digest)
    if saved is None:
        for old in arguments.out.glob("step-*"):
            shutil.rmtree(old)
        saved = train(arguments.out, budget, arguments.seed, console)
        _record(arguments.out, digest, saved)
    else:
        console.print(f"{arguments.out} already holds the checkpoints of this recipe; nothing to do.")
    _print_table(console, saved)


if __name__ == "__main__":
    main()

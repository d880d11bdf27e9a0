"""The tiny policy in transformers' Trainer: the recipe of ``examples.tiny_policy.train`` in other people's loop."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from examples.tiny_policy.batches import NO_LOSS, Batch, DocumentEncoder, make_batches, take_tokens
from examples.tiny_policy.corpus import draw_documents
from examples.tiny_policy.model import build_model
from examples.tiny_policy.tokenizer import train_tokenizer

_TOKENIZER_DOCUMENTS = 6000
_TOKENS_A_STEP = 512
_STEPS_A_DRAW = 8


class PolicyBatches(IterableDataset[Mapping[str, torch.Tensor]]):
    """Endless batches of about 512 tokens; ``labels`` are the tokens themselves where they carry loss."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed

    def __iter__(self) -> Iterator[Mapping[str, torch.Tensor]]:
        """Begin anew."""
        encoder = DocumentEncoder(self._tokenizer)
        rng = Random(self._seed)
        draw = 0
        while True:
            documents = (encoder.encode(each, rng) for each in draw_documents(self._seed, draw))
            taken = take_tokens(documents, _TOKENS_A_STEP * _STEPS_A_DRAW)
            batches = make_batches(taken, _STEPS_A_DRAW, self._tokenizer.pad_token_id)
            rng.shuffle(batches)
            yield from map(_inputs, batches)
            draw += 1


def make_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer, which takes a few seconds."""
    return train_tokenizer(list(islice(draw_documents(seed, -1), _TOKENIZER_DOCUMENTS)), Random(seed))


def policy_trainer(
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    *,
    steps: int,
    save_steps: int,
    callbacks: Sequence[TrainerCallback] = (),
    save_total_limit: int | None = None,
    seed: int = 0,
) -> Trainer:
    """Make a trainer of a fresh model that saves ``checkpoint-N`` folders below ``out``, and keeps all or so many."""
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        save_steps=save_steps,
        save_total_limit=save_total_limit,
        logging_steps=max(1, steps // 10),
        per_device_train_batch_size=1,
        learning_rate=4e-3,
        warmup_steps=max(1, steps // 25),
        lr_scheduler_type="linear",
        adam_beta2=0.98,
        weight_decay=0.05,
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    trainer = Trainer(
        model=build_model(tokenizer, seed),
        args=arguments,
        train_dataset=PolicyBatches(tokenizer, seed),
        # Rows come as batches already.
        data_collator=lambda rows: rows[0],
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    # It prints everything that is logged, in one line.
    trainer.remove_callback(PrinterCallback)
    return trainer


def _inputs(batch: Batch) -> Mapping[str, torch.Tensor]:
    """What the model takes: it compares each token with the label of the next place itself."""
    labels = torch.full_like(batch.targets, NO_LOSS)
    labels[:, 1:] = batch.targets[:, :-1]
    return {"input_ids": batch.tokens, "labels": labels}

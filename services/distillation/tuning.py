"""Tunes the embedded guard's encoder through a LoRA adapter, together with one linear output a label."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits, linear, normalize
from transformers import AutoModel, AutoTokenizer

from services.inference.adapters import WEIGHTS_FILE
from services.safety.encoder import HUB_REPOSITORY, HUB_REVISION

HEAD_WEIGHTS_FILE: Final = "head.safetensors"
_HEAD_SCALE: Final = 16.0
"""Embeddings have length 1; with this the outputs move as fast as the adapter at one learning rate."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an encoder is tuned.

    Attributes:
        rank: of the adapter's matrices.
        alpha: its scale is ``alpha / rank``.
        dropout: before the adapter's matrices.
        epochs: passes over the texts.
        batch: texts a step.
        learning_rate: highest, after a tenth of the steps; then it falls along a half cosine to zero.
        weight_decay: of AdamW.
        max_tokens: texts are cut to this while tuning; the guard reads more.
        hazard_share: weight of the hazards' loss, summed over a text's hazards, beside that of ``unsafe``.
        seed: of the weights, the order and the dropout.
    """

    rank: int = 32
    alpha: int = 64
    dropout: float = 0.1
    epochs: int = 3
    batch: int = 32
    learning_rate: float = 7e-4
    weight_decay: float = 0.01
    max_tokens: int = 128
    hazard_share: float = 0.3
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text to learn.

    Attributes:
        text: what the guard would read.
        targets: of each label, ``unsafe`` first: from 0 to 1, or NaN where nobody judged.
        draws: how often an epoch sees it on average.
    """

    text: str
    targets: tuple[float, ...]
    draws: float = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded texts with their labels.

    Attributes:
        tokens: input_ids and attention_mask, int64 [texts, tokens].
        targets: float32 [texts, labels].
    """

    tokens: Mapping[str, torch.Tensor]
    targets: torch.Tensor


class TunedEncoder(torch.nn.Module):
    """The encoder with its adapter, mean pooling to length 1, and a linear output a label."""

    def __init__(self, encoder: Path, num_labels: int, recipe: Recipe) -> None:
        super().__init__()
        torch.manual_seed(recipe.seed)
        base: Any = AutoModel.from_pretrained(encoder, local_files_only=True, dtype=torch.float32)
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=["query", "key", "value", "dense"],
            exclude_modules=["pooler.dense"],
            bias="none",
        )
        self.encoder: Any = get_peft_model(base, config)
        self.weight = torch.nn.Parameter(torch.randn(num_labels, base.config.hidden_size) * 0.02)
        self.bias = torch.nn.Parameter(torch.full((num_labels,), -1.0 / _HEAD_SCALE))

    def forward(self, tokens: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return logits, float32 [texts, labels]."""
        hidden = self.encoder(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return linear(normalize(pooled, dim=-1), self.weight * _HEAD_SCALE, self.bias * _HEAD_SCALE)

    def save(self, folder: Path) -> None:
        """Write the adapter in peft's format, in half precision, and the head as the classifier engine reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.encoder, save_embedding_layers=False)
        save_file({name: each.half().contiguous() for name, each in state.items()}, folder / WEIGHTS_FILE)
        config = self.encoder.peft_config["default"]
        # Otherwise it names the folder that the encoder happened to lie in.
        config.base_model_name_or_path, config.revision = HUB_REPOSITORY, HUB_REVISION
        config.save_pretrained(folder)
        head = {"weight": self.weight * _HEAD_SCALE, "bias": self.bias * _HEAD_SCALE}
        save_file({name: each.detach().contiguous() for name, each in head.items()}, folder / HEAD_WEIGHTS_FILE)


def tune(
    encoder: Path,
    lessons: Sequence[Lesson],
    recipe: Recipe,
    *,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> TunedEncoder:
    """Return the encoder tuned on the texts.

    Args:
        encoder: folder of the base encoder.
        lessons: texts with their labels, at least one.
        recipe: how.
        report: called after each step with its number, the number of steps, and the loss.
    """
    guard = TunedEncoder(encoder, len(lessons[0].targets), recipe)
    tokenizer = padding_tokenizer(encoder)
    chance = random.Random(recipe.seed)
    epochs = [_drawn(lessons, chance) for _ in range(recipe.epochs)]
    steps = sum(math.ceil(len(each) / recipe.batch) for each in epochs)
    trained = [each for each in guard.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    guard.train()
    step = 0
    for epoch in epochs:
        for batch in _batches(epoch, tokenizer, recipe, chance):
            loss = _loss(guard(batch.tokens), batch.targets, recipe.hazard_share)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            report(step, steps, loss.item())
    return guard.eval()


def padding_tokenizer(encoder: Path) -> Any:
    """Return an encoder's tokenizer, able to pad."""
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _loss(logits: torch.Tensor, targets: torch.Tensor, hazard_share: float) -> torch.Tensor:
    """Binary cross-entropy of ``unsafe``, of the largest output (what the guard reports), and of the hazards."""
    unsafe = targets[:, 0]
    known = ~targets.isnan()
    # Of an unsafe text, a hazard that nobody judged must not become the largest just because it is.
    candidates = logits.masked_fill(~known & (unsafe >= 0.5).unsqueeze(1), -math.inf)
    known[:, 0] = False
    hazards = binary_cross_entropy_with_logits(logits[known], targets[known], reduction="sum") / len(unsafe)
    return (
        binary_cross_entropy_with_logits(logits[:, 0], unsafe)
        + binary_cross_entropy_with_logits(candidates.amax(dim=1), unsafe)
        + hazard_share * hazards
    )


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _drawn(lessons: Sequence[Lesson], chance: random.Random) -> list[Lesson]:
    return [each for each in lessons for _ in range(math.floor(each.draws + chance.random()))]


def _batches(lessons: Sequence[Lesson], tokenizer: Any, recipe: Recipe, chance: random.Random) -> Iterator[Batch]:
    """Yield batches in random order; texts of like length share one, so that little is padded."""
    ids = tokenizer([each.text for each in lessons], truncation=True, max_length=recipe.max_tokens)["input_ids"]
    order = sorted(range(len(lessons)), key=lambda row: (len(ids[row]), chance.random()))
    starts = list(range(0, len(order), recipe.batch))
    chance.shuffle(starts)
    for start in starts:
        rows = order[start : start + recipe.batch]
        padded = tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
        tokens = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        yield Batch(tokens, torch.tensor([lessons[row].targets for row in rows]))

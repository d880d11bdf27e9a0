"""The optimizer's side: what a step does, how much of the budget is spent, and how fast to learn by then."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from examples.tiny_policy.batches import NO_LOSS, DocumentEncoder, EncodedDocument, make_batches, take_tokens
from examples.tiny_policy.corpus import draw_documents

TOKENS_PER_STEP = 1024
BATCHES_PER_STEP = 3
MATRIX_RATE = 0.02
OTHER_RATE = 0.002
WARM_UP_STEPS = 40
FLAT_SHARE = 0.3  # of the budget at the full rate, before it falls in a line to almost nothing
LAST_RATE_SHARE = 0.02


@dataclass(slots=True)
class Budget:
    """How long to train: a number of steps, or of seconds spent in steps.

    With steps the outcome is reproducible; with seconds a faster machine takes more steps.
    """

    steps: int | None = None
    seconds: float | None = None
    _spent_seconds: float = field(default=0.0, init=False)
    _spent_steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("Give a budget in steps or in seconds.")

    @property
    def fraction_spent(self) -> float:
        """From 0 to 1."""
        if self.steps is not None:
            return min(1.0, self._spent_steps / self.steps)
        assert self.seconds is not None
        return min(1.0, self._spent_seconds / self.seconds)

    def charge(self, started: float) -> None:
        """Charge one step that began at this reading of ``time.perf_counter``."""
        self._spent_steps += 1
        self._spent_seconds += time.perf_counter() - started


def rate_share(step: int, fraction_spent: float) -> float:
    """Share of the full learning rate: a short warm-up, a flat stretch, then down in a line."""
    falling = min(1.0, (1.0 - fraction_spent) / (1.0 - FLAT_SHARE))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * max(LAST_RATE_SHARE, falling)


class Trainer:
    """Trains one model, a step at a time.

    The matrices inside the layers are trained with Muon, which needs far fewer steps here than AdamW does; embeddings
    and norms with AdamW.
    """

    def __init__(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self._model = model
        self._encoder = DocumentEncoder(tokenizer)
        self._padding = tokenizer.pad_token_id
        self._seed = seed
        matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
        inner = {id(weight) for weight in matrices}
        others = [weight for weight in model.parameters() if id(weight) not in inner]
        self._optimizers: dict[torch.optim.Optimizer, float] = {
            torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01): MATRIX_RATE,
            torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True): OTHER_RATE,
        }

    def take_step(self, step: int, fraction_spent: float) -> float:
        """Learn from the documents of this step; returns the mean loss per answer token (nats)."""
        for optimizer, rate in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share(step, fraction_spent)
        documents = take_tokens(self._documents(step, fraction_spent), TOKENS_PER_STEP)
        batches = make_batches(documents, BATCHES_PER_STEP, self._padding)
        target_count = sum(batch.target_count for batch in batches)
        total = 0.0
        for batch in batches:
            hidden = self._model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
            is_target = batch.targets != NO_LOSS
            # Vocabulary scores only where there is loss: a fifth of the positions.
            scores = self._model.lm_head(hidden[is_target])
            loss = cross_entropy(scores, batch.targets[is_target], reduction="sum") / target_count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return total

    def _documents(self, step: int, fraction_spent: float) -> Iterator[EncodedDocument]:
        rng = Random(f"layout/{self._seed}/{step}")
        return (self._encoder.encode(document, rng) for document in draw_documents(self._seed, step, fraction_spent))

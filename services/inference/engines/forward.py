"""Forward passes over a causal language model with padded batches and cached keys and values."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache

from services.inference.engines.kv_cache import RowCache, select_rows


class ForwardPass:
    """Runs a model on ragged token lists.

    Args:
        model: a transformers causal language model in evaluation mode.
        device: where it lives.
    """

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        accepted = inspect.signature(model.forward).parameters
        # Some architectures derive positions from the attention mask, some always return all logits.
        self._takes_positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self._device

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, DynamicCache]:
        """Compute prompts together.

        Returns:
            Logits behind the last token of every prompt, float32 [prompts, vocabulary], and the left-padded cache.
        """
        longest = max(map(len, prompts))
        padding = torch.tensor([[longest - len(prompt)] for prompt in prompts], device=self._device)
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self._device)
        time = torch.arange(longest, device=self._device)
        mask = time >= padding
        cache = DynamicCache()
        logits = self._run(ids, mask, (time - padding).clamp(min=0), cache, keep=1)
        return logits[:, -1].float(), cache

    def decode(self, last_tokens: Sequence[int], cache: RowCache) -> torch.Tensor:
        """Add one token to every row of a running batch.

        Returns:
            Logits behind it, float32 [rows, vocabulary].
        """
        lengths = torch.tensor(cache.lengths, device=self._device).unsqueeze(1)
        time = torch.arange(cache.time_tokens + 1, device=self._device)
        mask = time >= cache.time_tokens - lengths
        ids = torch.tensor(last_tokens, device=self._device).unsqueeze(1)
        logits = self._run(ids, mask, lengths, cache, keep=1)
        cache.note_step()
        return logits[:, -1].float()

    def continue_from(
        self,
        cache: DynamicCache,
        rows: Sequence[int],
        context_lengths: Sequence[int],
        continuations: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """Compute continuations behind cached contexts; ``rows`` says which context each one follows.

        Args:
            cache: a left-padded prefill; it is left as it was.
            rows: row of the cache for every continuation.
            context_lengths: tokens of that context, without padding.
            continuations: token ids.

        Returns:
            Logits behind every token, float32 [continuations, longest, vocabulary]; positions behind a
            continuation's own end mean nothing.
        """
        longest = max(map(len, continuations))
        context_tokens = cache.get_seq_length()
        ids = torch.tensor([list(each) + [0] * (longest - len(each)) for each in continuations], device=self._device)
        lengths = torch.tensor(context_lengths, device=self._device).unsqueeze(1)
        ends = torch.tensor([[context_tokens + len(each)] for each in continuations], device=self._device)
        time = torch.arange(context_tokens + longest, device=self._device)
        mask = (time >= context_tokens - lengths) & (time < ends)
        positions = lengths + torch.arange(longest, device=self._device)
        selected = select_rows(cache, torch.tensor(rows, device=self._device))
        return self._run(ids, mask, positions, selected, keep=longest).float()

    def _run(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache, *, keep: int
    ) -> torch.Tensor:
        arguments: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "past_key_values": cache,
            "use_cache": True,
        }
        if self._takes_positions:
            arguments["position_ids"] = positions
        if self._keeps_logits:
            arguments["logits_to_keep"] = keep
        logits: torch.Tensor = self._model(**arguments).logits
        return logits

"""Chooses how a loaded checkpoint computes: packed where its attention allows it, padded otherwise."""

import logging
from typing import Any, Final

import torch

from services.inference.contract import CausalLMArguments
from services.inference.engines.context_group import ContextGroup
from services.inference.engines.forward import ForwardPass
from services.inference.engines.loading import LoadedCausalLM
from services.inference.engines.packed import attention
from services.inference.engines.packed.model import PackedLimits, PackedModel
from services.inference.engines.padded_model import PaddedModel
from services.inference.engines.sequence_model import SequenceModel

_logger = logging.getLogger(__name__)

_GIB: Final = 1 << 30
_REFERENCE: Final = "sdpa"
_TRIAL_TOKENS: Final = 48
_TRIAL_CHOICES: Final = 16
_TRIAL_STEPS: Final = 4
_TRIAL_TOLERANCE: Final = 0.02
"""Mean difference of a log-probability in the trial; a wrong mask is off by far more."""


def choose_model(loaded: LoadedCausalLM, arguments: CausalLMArguments) -> SequenceModel:
    """Return a packed model if it computes what the model itself does, else a padded one."""
    forward = ForwardPass(loaded.model, loaded.device)
    if not sees_everything(loaded):
        return _padded(forward, loaded, arguments)
    implementation = loaded.model.config._attn_implementation
    if implementation == attention.IMPLEMENTATION:
        loaded.model.set_attn_implementation(_REFERENCE)
    limits = PackedLimits(
        max_batched_tokens=arguments.max_num_batched_tokens,
        prefix_bytes=int(arguments.prefix_cache_gib * _GIB),
        vocabulary_size=loaded.vocabulary_size,
    )
    if _trial_passes(forward, loaded, limits):
        return PackedModel(loaded.model, loaded.device, limits)
    loaded.model.set_attn_implementation(_REFERENCE if implementation == attention.IMPLEMENTATION else implementation)
    return _padded(forward, loaded, arguments)


def _padded(forward: ForwardPass, loaded: LoadedCausalLM, arguments: CausalLMArguments) -> PaddedModel:
    return PaddedModel(
        forward,
        max_batched_tokens=arguments.max_num_batched_tokens,
        kv_tokens=int(arguments.kv_cache_gib * _GIB) // loaded.kv_token_bytes,
        kv_token_bytes=loaded.kv_token_bytes,
    )


def sees_everything(loaded: LoadedCausalLM) -> bool:
    """Return whether every token sees all before it: the trial is too short to notice a sliding window."""
    config: Any = loaded.model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds == {"full_attention"} and getattr(config, "layer_types", None):
        return True
    return all(window is None or window >= loaded.context_tokens for window in windows)


@torch.inference_mode()
def _trial_passes(forward: ForwardPass, loaded: LoadedCausalLM, limits: PackedLimits) -> bool:
    """Compute one context both ways, behind a shared prefix and with branches, and compare."""
    generator = torch.Generator().manual_seed(0)
    count = min(_TRIAL_TOKENS, loaded.context_tokens - 2)
    tokens = torch.randint(loaded.vocabulary_size, (count,), generator=generator).tolist()
    if count < 4:
        return False
    logits = forward.prefill([tokens[:-1], tokens])[0].float()
    expected = logits.log_softmax(dim=-1)
    attention.register()
    try:
        loaded.model.set_attn_implementation(attention.IMPLEMENTATION)
        model = PackedModel(loaded.model, loaded.device, limits)
        # Two contexts in common but for the last tokens, so that blocks, stems and branches all take part.
        choices = torch.randint(loaded.vocabulary_size, (_TRIAL_CHOICES,), generator=generator).tolist()
        groups = [
            ContextGroup(tokens[:-1], [(at, [tokens[-1], choice]) for at, choice in enumerate(choices)]),
            ContextGroup(tokens, [(at, [choice]) for at, choice in enumerate(choices)]),
        ]
        for _ in model.score(groups):
            pass
        found = [[group.results[at].log_likelihood for at in range(len(choices))] for group in groups]
    except Exception:  # whatever a checkpoint's own attention raises here, it can still be computed padded
        _logger.warning("packed_model_refused", exc_info=True)
        return False
    last = expected[1, choices].cpu()
    first = float(expected[0, tokens[-1]])
    mean = float((torch.tensor(found, dtype=last.dtype) - torch.stack([first + last, last])).abs().mean())
    # Rounding grows with the logits, and over the layers: a step of bfloat16 between 16 and 32 is 0.125.
    step = torch.finfo(loaded.model.dtype).eps * float(logits.abs().max())
    tolerance = max(_TRIAL_TOLERANCE, _TRIAL_STEPS * step)
    if mean <= tolerance:
        return True
    _logger.warning("packed_model_refused: log-probabilities differ by %.3g on average, not %.3g", mean, tolerance)
    return False

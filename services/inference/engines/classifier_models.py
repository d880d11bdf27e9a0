"""The two kinds of sequence classifier, a checkpoint with its own head and an encoder with ours; and the bare encoder.

A folder with such a head may also hold a LoRA adapter, which is merged into the encoder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import linear, normalize
from transformers import AutoModel, AutoModelForSequenceClassification

from services.inference.adapters import CONFIG_FILE as ADAPTER_CONFIG
from services.inference.adapters import inspect_adapter
from services.inference.checkpoints import CheckpointFacts, inspect_checkpoint, read_json
from services.inference.contract import ClassifierArguments, EncoderArguments
from services.inference.engines.loading import load_model, load_tokenizer, pick_device, pick_dtype, set_torch_threads
from services.inference.failures import InferenceFailure

_ACTIVATIONS = ("sigmoid", "softmax")


class ProbabilityModel(Protocol):
    """Token ids to class probabilities."""

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return float32 [texts, labels] for int64 [texts, tokens] and its mask."""


@dataclass(frozen=True, slots=True)
class LoadedClassifier:
    """A sequence classifier, or a sentence encoder, ready to run.

    Attributes:
        probabilities: the model; of an encoder it gives embeddings.
        tokenizer: the checkpoint's own, able to pad.
        device: where the model lives.
        max_tokens: longest text, special tokens included; longer ones are cut.
    """

    probabilities: ProbabilityModel
    tokenizer: Any
    device: torch.device
    max_tokens: int


class CheckpointClassifier(torch.nn.Module):
    """A Hugging Face sequence-classification checkpoint.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        one_of_many = model.config.num_labels > 1 and model.config.problem_type != "multi_label_classification"
        self._activation = "softmax" if one_of_many else "sigmoid"

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return class probabilities."""
        return _activate(self._model(input_ids=input_ids, attention_mask=attention_mask).logits, self._activation)


class PooledEncoder(torch.nn.Module):
    """Mean pooling over an encoder's last hidden states, and L2 normalisation.

    Args:
        encoder: in evaluation mode.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return float32 [texts, hidden], each of length 1."""
        hidden = self._encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).float()
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1e-9)
        return normalize(pooled, dim=-1)


class PooledClassifier(torch.nn.Module):
    """A linear layer on what ``PooledEncoder`` gives.

    Args:
        encoder: in evaluation mode.
        weight: [labels, hidden].
        bias: [labels].
        activation: sigmoid or softmax.
    """

    def __init__(self, encoder: Any, weight: torch.Tensor, bias: torch.Tensor, activation: str) -> None:
        super().__init__()
        self._pooled = PooledEncoder(encoder)
        self._weight, self._bias = weight, bias
        self._activation = activation

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return class probabilities."""
        pooled = self._pooled(input_ids, attention_mask)
        return _activate(linear(pooled, self._weight, self._bias), self._activation)


def load_classifier(arguments: ClassifierArguments) -> LoadedClassifier:
    """Load a sequence classifier.

    Raises:
        InferenceFailure: the checkpoint or the head cannot be used.
    """
    set_torch_threads(arguments.torch_threads)
    facts = inspect_checkpoint(arguments.model)
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, facts, device)
    head_tokens: int | None = None
    probabilities: ProbabilityModel
    if arguments.head is None:
        model = load_model(AutoModelForSequenceClassification.from_pretrained, facts, dtype, device)
        probabilities = CheckpointClassifier(model)
    else:
        head = Path(arguments.head)
        adapter = inspect_adapter(head, facts) if (head / ADAPTER_CONFIG).is_file() else None
        # The pooler of a plain encoder is not used here, so a checkpoint may come without.
        model = load_model(AutoModel.from_pretrained, facts, dtype, device, may_lack=("pooler.",), adapter=adapter)
        probabilities, head_tokens = _with_head(model, head, device)
    tokenizer = _padding_tokenizer(facts)
    if model.config.pad_token_id is None:
        # Decoder-based classifiers look for the last token that is not padding.
        model.config.pad_token_id = tokenizer.pad_token_id
    limit = _longest_text(facts, model, tokenizer)
    wanted = arguments.max_model_len or head_tokens or limit
    return LoadedClassifier(probabilities, tokenizer, device, min(wanted, limit))


def load_encoder(arguments: EncoderArguments) -> LoadedClassifier:
    """Load a sentence encoder.

    Raises:
        InferenceFailure: the checkpoint cannot be used.
    """
    set_torch_threads(arguments.torch_threads)
    facts = inspect_checkpoint(arguments.model)
    device = pick_device(arguments.device)
    dtype = pick_dtype(arguments.dtype, facts, device)
    model = load_model(AutoModel.from_pretrained, facts, dtype, device, may_lack=("pooler.",))
    tokenizer = _padding_tokenizer(facts)
    limit = _longest_text(facts, model, tokenizer)
    return LoadedClassifier(PooledEncoder(model), tokenizer, device, min(arguments.max_model_len or limit, limit))


def _padding_tokenizer(facts: CheckpointFacts) -> Any:
    tokenizer = load_tokenizer(facts)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _with_head(encoder: Any, folder: Path, device: torch.device) -> tuple[PooledClassifier, int | None]:
    described = read_json(folder / "head.json")
    labels, activation = described.get("labels"), described.get("activation")
    max_tokens = described.get("max_tokens")
    try:
        tensors = load_file(folder / "head.safetensors")
        weight, bias = tensors["weight"].float().to(device), tensors["bias"].float().to(device)
    except (OSError, SafetensorError, KeyError) as error:
        raise _bad_head(folder, f"head.safetensors must hold weight and bias ({error})") from error
    if not isinstance(labels, list) or not labels or activation not in _ACTIVATIONS:
        raise _bad_head(folder, f"head.json must name labels and an activation ({' or '.join(_ACTIVATIONS)})")
    if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 1):
        raise _bad_head(folder, f"max_tokens in head.json must be a positive number, not {max_tokens!r}")
    expected = (len(labels), int(encoder.config.hidden_size))
    if tuple(weight.shape) != expected or tuple(bias.shape) != expected[:1]:
        raise _bad_head(folder, f"weight is {tuple(weight.shape)}, labels × hidden size of the encoder are {expected}")
    return PooledClassifier(encoder, weight, bias, activation), max_tokens


def _bad_head(folder: Path, problem: str) -> InferenceFailure:
    return InferenceFailure(
        f"classifier head {folder}: {problem}",
        reason="HEAD_INVALID",
        code="FAILED_PRECONDITION",
        metadata={"path": str(folder)},
    )


def _longest_text(facts: CheckpointFacts, model: Any, tokenizer: Any) -> int:
    limits = [facts.context_tokens] if facts.context_tokens else []
    embeddings = getattr(getattr(model, "base_model", model), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    if facts.context_tokens and padding is not None:
        # RoBERTa and its kin number positions from behind the padding id.
        limits.append(facts.context_tokens - padding - 1)
    told = tokenizer.model_max_length
    if isinstance(told, int | float) and told < 1e9:
        limits.append(int(told))
    return min(limits, default=512)


def _activate(logits: torch.Tensor, activation: str) -> torch.Tensor:
    return logits.float().softmax(dim=-1) if activation == "softmax" else logits.float().sigmoid()

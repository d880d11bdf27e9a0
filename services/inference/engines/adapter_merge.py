"""Merges a LoRA adapter into the weights of its base, with peft's own definition of what an adapter does."""

from typing import Any, Final

from services.inference.adapters import WEIGHTS_FILE, AdapterFacts
from services.inference.engines.weights import read_tensors
from services.inference.failures import InferenceFailure

_LEFT_OUT: Final = frozenset({"peft_type", "auto_mapping"})
"""What LoraConfig knows by itself, and the name of a class to import, which an adapter has no business to choose."""


def merge_adapter(model: Any, adapter: AdapterFacts) -> Any:
    """Return the base model with the adapter merged into its weights; ``model`` itself is changed.

    Raises:
        InferenceFailure: PEFT_MISSING, ADAPTER_MISMATCH, or CHECKPOINT_CORRUPT.
    """
    try:
        # Only where an adapter comes: peft costs an engine's process a second and some memory.
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise InferenceFailure(
            "LoRA adapters need the package peft in the environment of the inference host",
            reason="PEFT_MISSING",
            code="FAILED_PRECONDITION",
        ) from error
    known = LoraConfig.__dataclass_fields__.keys() - _LEFT_OUT
    config = LoraConfig(**{key: value for key, value in adapter.config.items() if key in known})
    config.inference_mode = True
    wrapped = get_peft_model(model, config)
    report: Any = set_peft_model_state_dict(wrapped, read_tensors(adapter.path / WEIGHTS_FILE))
    lost = [name for name in report.missing_keys if "lora_" in name] + list(report.unexpected_keys)
    if lost:
        raise InferenceFailure(
            f"the adapter {adapter.path} does not fit its base: {len(lost)} parameters differ, for example {lost[0]}",
            reason="ADAPTER_MISMATCH",
            code="FAILED_PRECONDITION",
            metadata={"path": str(adapter.path)},
            field="adapter_path",
        )
    # safe_merge refuses an adapter that brings NaN or infinity.
    return wrapped.merge_and_unload(safe_merge=True)

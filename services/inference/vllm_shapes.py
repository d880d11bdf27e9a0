"""Which checkpoints one running vLLM engine can hold one after the other. Torch-free."""

import hashlib
import json
from pathlib import Path
from typing import Final

from services.inference.checkpoints import read_json

VLLM_HOST_PREFIX: Final = "evalfleet-vllm-"
_SHOWN_CHARACTERS: Final = 12
# What a configuration says about its history rather than about the model.
_HISTORY: Final = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"})


def vllm_host_model(checkpoint_path: str, dtype: str, adapter_path: str = "") -> str:
    """Return the inference server's name of the vLLM host that holds checkpoints of this one's shape.

    Weights can be read into a running engine if its configuration is the same but for history; room for adapters is
    made when it starts.

    Raises:
        InferenceFailure: the configuration cannot be read.
    """
    config = read_json(Path(checkpoint_path) / "config.json")
    shape = {name: value for name, value in config.items() if name not in _HISTORY}
    rank = read_json(Path(adapter_path) / "adapter_config.json").get("r") if adapter_path else None
    text = json.dumps([shape, dtype, rank], sort_keys=True)
    return VLLM_HOST_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:_SHOWN_CHARACTERS]

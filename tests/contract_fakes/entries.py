"""Contract fakes: Triton Python models with the documented tensors and traps of servers that cannot run here.

Each is served by the real Triton as a model's ``model.py``, so it imports nothing of ours. There is no neural network
in them: an answer is the prompt's own tokens in reverse, and a token's logit follows from its id. Here are their
configurations, as the servers that they stand for have them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.inference.contract import ModelEntry

_FOLDER = Path(__file__).resolve().parent


def vllm_backend_entry(tokenizer_file: Path, cancel_log: Path, *, is_new: bool = True) -> ModelEntry:
    """Return the fake of the vLLM backend; a cancelled request leaves a line in ``cancel_log``."""
    inputs = {
        "text_input": "TYPE_STRING",
        "stream": "TYPE_BOOL",
        "sampling_parameters": "TYPE_STRING",
        "exclude_input_in_output": "TYPE_BOOL",
        "return_finish_reason": "TYPE_BOOL",
        "return_cumulative_logprob": "TYPE_BOOL",
        "return_logprobs": "TYPE_BOOL",
        "return_num_input_tokens": "TYPE_BOOL",
        "return_num_output_tokens": "TYPE_BOOL",
    }
    outputs = {
        "text_output": ("TYPE_STRING", [-1]),
        "finish_reason": ("TYPE_STRING", [-1]),
        "cumulative_logprob": ("TYPE_FP32", [-1]),
        "logprobs": ("TYPE_STRING", [-1]),
        "num_input_tokens": ("TYPE_UINT32", [1]),
        "num_output_tokens": ("TYPE_UINT32", [-1]),
    }
    config = {
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": _inputs(inputs, required=("text_input",)),
        "output": [{"name": name, "data_type": kind, "dims": dims} for name, (kind, dims) in outputs.items()],
    }
    parameters = {
        "tokenizer_file": str(tokenizer_file),
        "cancel_log": str(cancel_log),
        "is_new": "true" if is_new else "false",
    }
    return _entry("vllm_backend.py", config, parameters)


def tensorrt_llm_entry(tokenizer_file: Path, *, is_decoupled: bool = False) -> ModelEntry:
    """Return the fake of TensorRT-LLM's ensemble, or of its BLS model: decoupled, here without batches."""
    inputs = {
        "text_input": "TYPE_STRING",
        "max_tokens": "TYPE_INT32",
        "stop_words": "TYPE_STRING",
        "exclude_input_in_output": "TYPE_BOOL",
        "top_k": "TYPE_INT32",
        "top_p": "TYPE_FP32",
        "temperature": "TYPE_FP32",
        "seed": "TYPE_UINT64",
        "return_generation_logits": "TYPE_BOOL",
        "return_num_input_tokens": "TYPE_BOOL",
        "return_num_output_tokens": "TYPE_BOOL",
    }
    outputs = {
        "text_output": ("TYPE_STRING", [-1]),
        "generation_logits": ("TYPE_FP32", [-1, -1, -1]),
        "num_input_tokens": ("TYPE_INT32", [1]),
        "num_output_tokens": ("TYPE_INT32", [1]),
    }
    config = {
        "max_batch_size": 0 if is_decoupled else 4,
        "model_transaction_policy": {"decoupled": is_decoupled},
        "input": _inputs(inputs, required=("text_input", "max_tokens")),
        "output": [{"name": name, "data_type": kind, "dims": dims} for name, (kind, dims) in outputs.items()],
    }
    return _entry("tensorrt_llm.py", config, {"tokenizer_file": str(tokenizer_file)})


def _inputs(types: Mapping[str, str], required: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "data_type": kind,
            "dims": [-1 if name == "stop_words" else 1],
            "optional": name not in required,
        }
        for name, kind in types.items()
    ]


def _entry(file: str, config: Mapping[str, Any], parameters: Mapping[str, str]) -> ModelEntry:
    told = {
        **config,
        "backend": "python",
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }
    return ModelEntry(json.dumps(told), {"1/model.py": (_FOLDER / file).read_bytes()})

"""The tensors between the services and the models inside Triton: names, shapes and model configurations.

Generation models take and give what Triton's vLLM backend does (``text_input``, ``sampling_parameters``,
``exclude_input_in_output``, …), so a vLLM model can take their place. What vLLM lacks is marked as an extension here
and documented in docs/inference.md. Torch-free, and free of Triton's client.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

# Inputs of a causal language model, as the vLLM backend names them.
TEXT_INPUT: Final = "text_input"
STREAM: Final = "stream"
SAMPLING_PARAMETERS: Final = "sampling_parameters"
EXCLUDE_INPUT_IN_OUTPUT: Final = "exclude_input_in_output"
RETURN_FINISH_REASON: Final = "return_finish_reason"
RETURN_CUMULATIVE_LOGPROB: Final = "return_cumulative_logprob"
RETURN_NUM_INPUT_TOKENS: Final = "return_num_input_tokens"
RETURN_NUM_OUTPUT_TOKENS: Final = "return_num_output_tokens"
# Extensions: a conversation in place of text_input, texts to score, and leave to shorten a long input.
MESSAGES: Final = "messages"
CONTINUATIONS: Final = "continuations"
TRUNCATE_INPUT: Final = "truncate_input"

# Outputs of a causal language model, as the vLLM backend names them.
TEXT_OUTPUT: Final = "text_output"
FINISH_REASON: Final = "finish_reason"
CUMULATIVE_LOGPROB: Final = "cumulative_logprob"
NUM_INPUT_TOKENS: Final = "num_input_tokens"
NUM_OUTPUT_TOKENS: Final = "num_output_tokens"
# Extensions: one value a continuation, and what an answer cost.
CONTINUATION_LOG_LIKELIHOODS: Final = "continuation_log_likelihoods"
CONTINUATION_IS_GREEDY: Final = "continuation_is_greedy"
CONTINUATION_NUM_TOKENS: Final = "continuation_num_tokens"
NUM_TRUNCATED_TOKENS: Final = "num_truncated_tokens"
NUM_CACHED_TOKENS: Final = "num_cached_tokens"
ENGINE_SECONDS: Final = "engine_seconds"

# The sequence classifier: a row a window in `probabilities`, `num_tokens` and `unknown_share`, else a row a text.
TEXT: Final = "text"
MAX_WINDOWS: Final = "max_windows"
PROBABILITIES: Final = "probabilities"
NUM_TOKENS: Final = "num_tokens"
NUM_WINDOWS: Final = "num_windows"
UNKNOWN_SHARE: Final = "unknown_share"
TRUNCATED: Final = "truncated"
# The sentence encoder has the same tensors, with these rows in place of `probabilities`.
EMBEDDINGS: Final = "embeddings"

MODEL_CONTROL_PROTOCOL: Final = "evalfleet-model-control"
MODEL_CONTROL_HEADER: Final = f"triton-grpc-protocol-{MODEL_CONTROL_PROTOCOL}"
"""gRPC metadata key that carries the model-control key; without it Triton refuses load, unload and index."""

ENGINE_PARAMETER: Final = "evalfleet_engine"
LABELS_PARAMETER: Final = "labels"
ARGUMENTS_FILE: Final = "model.json"
SAMPLES_FILE: Final = "samples.txt"
"""Beside a classifier's head: texts like those that it will read, one a line, for the ranges of 8-bit variants."""

EngineKind = Literal["causal_lm", "sequence_classifier", "sentence_encoder", "checkpoint_host", "vllm_host"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda"]
VariantName = Literal["torch", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, rendered by the checkpoint's chat template."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class TemplatePrompt:
    """A conversation that is material for the model, not a dialogue with it: guard models read such prompts.

    The checkpoint's chat template always opens the model's turn, also after a message of the assistant.

    Attributes:
        messages: what the template is given.
        variables: further variables of the template, by name; JSON values.
        as_parts: give each content as a list of one text part, as templates of multimodal models want it.
    """

    messages: Sequence[Message]
    variables: Mapping[str, object] = field(default_factory=dict)
    as_parts: bool = False


Prompt = str | Sequence[Message] | TemplatePrompt
"""A text given to the model as it is, a conversation to go on with, or one to judge."""


def messages_to_json(prompt: Sequence[Message] | TemplatePrompt) -> str:
    """Write the ``messages`` tensor: a list of messages, or an object that also says how to render them."""
    if not isinstance(prompt, TemplatePrompt):
        return json.dumps([{"role": each.role, "content": each.content} for each in prompt], ensure_ascii=False)
    body = {
        "messages": [{"role": each.role, "content": each.content} for each in prompt.messages],
        "variables": dict(prompt.variables),
        "as_parts": prompt.as_parts,
    }
    return json.dumps(body, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class EngineBounds:
    """What one checkpoint may compute together and keep, see ``CausalLMArguments``."""

    max_num_seqs: int = 64
    kv_cache_gib: float = 2.0
    prefix_cache_gib: float = 1.0


DEFAULT_BOUNDS: Final = EngineBounds()


@dataclass(frozen=True, slots=True)
class CausalLMArguments:
    """What model.json tells the causal-LM engine; names as in vLLM's engine arguments where those exist.

    Attributes:
        model: folder of the checkpoint, as the inference host sees it.
        dtype: number type; auto is float32 on a CPU and the checkpoint's own type on a GPU.
        device: auto takes a GPU when there is one.
        max_model_len: context window in tokens; None takes the checkpoint's.
        max_num_seqs: most sequences that are generated together.
        max_num_batched_tokens: most tokens, padding included, of one prefill or scoring step.
        kv_cache_gib: bound on the memory of the running sequences' keys and values in GiB; one is always let in.
        prefix_cache_gib: bound on the memory of shared prefixes' keys and values in GiB.
        torch_threads: CPU threads of the engine; None takes the host's default.
        adapter: folder of a LoRA adapter in peft's format, which is merged into the weights.
    """

    model: str
    dtype: DtypeName = "auto"
    device: DeviceName = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = DEFAULT_BOUNDS.max_num_seqs
    max_num_batched_tokens: int = 8192
    kv_cache_gib: float = DEFAULT_BOUNDS.kv_cache_gib
    prefix_cache_gib: float = DEFAULT_BOUNDS.prefix_cache_gib
    torch_threads: int | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class ClassifierArguments:
    """What model.json tells the sequence-classifier engine.

    Attributes:
        model: folder of a sequence-classification checkpoint, or of an encoder if ``head`` is given.
        head: folder with head.safetensors and head.json: mean pooling, L2 normalisation and a linear layer.
        dtype: number type; auto is float32 on a CPU and the checkpoint's own type on a GPU.
        device: auto takes a GPU when there is one.
        max_model_len: longest text in tokens; None takes the head's or the checkpoint's.
        window_tokens: length of the windows of a text that is longer than that; None takes the same length.
        max_batch_size: most texts of one request.
        max_num_batched_tokens: most tokens, padding included, of one forward pass; None takes few on a CPU, where more
            are hardly faster and keep whatever arrives waiting, and many on a GPU.
        torch_threads: CPU threads of the engine; None takes the host's default.
        variant: what computes; all but ``torch`` run in float32 or int8 on CPUs and need packages of their own.
    """

    model: str
    head: str | None = None
    dtype: DtypeName = "auto"
    device: DeviceName = "auto"
    max_model_len: int | None = None
    window_tokens: int | None = None
    max_batch_size: int = 256
    max_num_batched_tokens: int | None = None
    torch_threads: int | None = None
    variant: VariantName = "torch"


@dataclass(frozen=True, slots=True)
class EncoderArguments:
    """What model.json tells the sentence-encoder engine.

    Attributes:
        model: folder of an encoder; its last hidden states are averaged and divided by their length.
        dtype, device, max_model_len, window_tokens, max_batch_size, max_num_batched_tokens, torch_threads: as those of
            ``ClassifierArguments``.
    """

    model: str
    dtype: DtypeName = "auto"
    device: DeviceName = "auto"
    max_model_len: int | None = None
    window_tokens: int | None = None
    max_batch_size: int = 256
    max_num_batched_tokens: int | None = None
    torch_threads: int | None = None


def arguments_to_json(arguments: Mapping[str, object]) -> str:
    """Write model.json."""
    return json.dumps({name: value for name, value in arguments.items() if value is not None}, indent=2)


def _tensor(name: str, data_type: str, dims: Sequence[int], *, optional: bool = False) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": name, "data_type": data_type, "dims": list(dims)}
    return {**tensor, "optional": True} if optional else tensor


_CAUSAL_LM_INPUTS: Final = (
    (TEXT_INPUT, "TYPE_STRING", 1),
    (STREAM, "TYPE_BOOL", 1),
    (SAMPLING_PARAMETERS, "TYPE_STRING", 1),
    (EXCLUDE_INPUT_IN_OUTPUT, "TYPE_BOOL", 1),
    (RETURN_FINISH_REASON, "TYPE_BOOL", 1),
    (RETURN_CUMULATIVE_LOGPROB, "TYPE_BOOL", 1),
    (RETURN_NUM_INPUT_TOKENS, "TYPE_BOOL", 1),
    (RETURN_NUM_OUTPUT_TOKENS, "TYPE_BOOL", 1),
    (MESSAGES, "TYPE_STRING", 1),
    (CONTINUATIONS, "TYPE_STRING", -1),
    (TRUNCATE_INPUT, "TYPE_BOOL", 1),
)
_CAUSAL_LM_OUTPUTS: Final = (
    (TEXT_OUTPUT, "TYPE_STRING", -1),
    (FINISH_REASON, "TYPE_STRING", -1),
    (CUMULATIVE_LOGPROB, "TYPE_FP32", -1),
    (NUM_INPUT_TOKENS, "TYPE_UINT32", 1),
    (NUM_OUTPUT_TOKENS, "TYPE_UINT32", -1),
    (CONTINUATION_LOG_LIKELIHOODS, "TYPE_FP64", -1),
    (CONTINUATION_IS_GREEDY, "TYPE_BOOL", -1),
    (CONTINUATION_NUM_TOKENS, "TYPE_UINT32", -1),
    (NUM_TRUNCATED_TOKENS, "TYPE_UINT32", 1),
    (NUM_CACHED_TOKENS, "TYPE_UINT32", 1),
    (ENGINE_SECONDS, "TYPE_FP64", 1),
)


def causal_lm_config() -> dict[str, Any]:
    """Triton's ModelConfig of a causal language model: decoupled, unbatched by Triton, batched by the engine."""
    return {
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "instance_group": [{"kind": "KIND_MODEL", "count": 1}],
        "input": [_tensor(name, kind, [dim], optional=True) for name, kind, dim in _CAUSAL_LM_INPUTS],
        "output": [_tensor(name, kind, [dim]) for name, kind, dim in _CAUSAL_LM_OUTPUTS],
        "parameters": {ENGINE_PARAMETER: {"string_value": "causal_lm"}},
    }


def classifier_config(labels: Sequence[str]) -> dict[str, Any]:
    """Triton's ModelConfig of a sequence classifier: decoupled, unbatched by Triton, batched by the engine.

    Triton's own batcher would answer all requests of a batch when the last of them is computed. ``text_input`` is what
    the client's question whether the engine lives brings; nothing reads it.
    """
    return {
        **_text_reader_config(PROBABILITIES, len(labels)),
        "parameters": {
            ENGINE_PARAMETER: {"string_value": "sequence_classifier"},
            LABELS_PARAMETER: {"string_value": json.dumps(list(labels))},
        },
    }


def encoder_config(dimensions: int) -> dict[str, Any]:
    """Triton's ModelConfig of a sentence encoder whose vectors have so many dimensions: as of a classifier."""
    return {
        **_text_reader_config(EMBEDDINGS, dimensions),
        "parameters": {ENGINE_PARAMETER: {"string_value": "sentence_encoder"}},
    }


def _text_reader_config(rows: str, width: int) -> dict[str, Any]:
    return {
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "instance_group": [{"kind": "KIND_MODEL", "count": 1}],
        "input": [
            _tensor(TEXT, "TYPE_STRING", [-1], optional=True),
            _tensor(MAX_WINDOWS, "TYPE_UINT32", [1], optional=True),
            _tensor(TEXT_INPUT, "TYPE_STRING", [1], optional=True),
        ],
        "output": [
            _tensor(rows, "TYPE_FP32", [-1, width]),
            _tensor(NUM_TOKENS, "TYPE_UINT32", [-1]),
            _tensor(NUM_WINDOWS, "TYPE_UINT32", [-1]),
            _tensor(UNKNOWN_SHARE, "TYPE_FP32", [-1]),
            _tensor(TRUNCATED, "TYPE_BOOL", [-1]),
            _tensor(ENGINE_SECONDS, "TYPE_FP64", [1]),
        ],
    }


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model as Triton loads it, without a folder shared between the service and Triton.

    Attributes:
        config: Triton's ModelConfig as JSON.
        files: contents by path inside the model's folder (``1/model.py``).
    """

    config: str
    files: Mapping[str, bytes]

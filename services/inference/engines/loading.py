"""Loads checkpoints into memory: safetensors only, from the local disk only, never with code of theirs."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoTokenizer, GenerationConfig
from transformers.cache_utils import DynamicCache
from transformers.utils import logging as transformers_logging

from services.inference.adapters import AdapterFacts, inspect_adapter
from services.inference.checkpoints import CheckpointFacts, inspect_checkpoint
from services.inference.contract import CausalLMArguments, DeviceName, DtypeName
from services.inference.engines.adapter_merge import merge_adapter
from services.inference.engines.kv_cache import layer_tensors
from services.inference.engines.weights import read_weights
from services.inference.failures import InferenceFailure

_LOAD_ERRORS: Final = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    ImportError,
    AttributeError,
    TypeError,
    ArithmeticError,
    SafetensorError,
    StrictDataclassError,
)

DEFAULT_CONTEXT_TOKENS: Final = 2048
"""Context window of a checkpoint that names none, as in lm-evaluation-harness."""
TORCH_THREADS_VARIABLE: Final = "EVALFLEET_TORCH_THREADS"

# While transformers builds a model it takes the tying of weights out of its base class and changes torch's default
# dtype, for the whole process. Of two at once, one would miss its tied weights, and the later would put back what the
# earlier had put in: no model of the process would ever be tied again.
_building: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadedCausalLM:
    """A causal language model ready to run.

    Attributes:
        model: in evaluation mode, on ``device``.
        tokenizer: the checkpoint's own.
        device: where the model lives.
        context_tokens: context window.
        vocabulary_size: rows of the embedding.
        end_token_ids: end-of-sequence tokens of the checkpoint.
        kv_token_bytes: memory of one token's cached keys and values.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    context_tokens: int
    vocabulary_size: int
    end_token_ids: frozenset[int]
    kv_token_bytes: int


def set_torch_threads(requested: int | None) -> None:
    """Give this process's engines ``requested`` CPU threads, or what the host wrote into the environment."""
    threads = requested or int(os.environ.get(TORCH_THREADS_VARIABLE, "0"))
    if threads > 0:
        torch.set_num_threads(threads)


def pick_device(name: DeviceName) -> torch.device:
    """Return the device to use.

    Raises:
        InferenceFailure: DEVICE_MISSING if cuda was asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise InferenceFailure(
            "no CUDA device is visible to the inference host; use device auto or cpu",
            reason="DEVICE_MISSING",
            code="FAILED_PRECONDITION",
        )
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def pick_dtype(name: DtypeName, facts: CheckpointFacts, device: torch.device) -> torch.dtype:
    """Return the number type: auto is float32 on a CPU and the checkpoint's own type on a GPU."""
    wanted = (facts.dtype or "float32") if name == "auto" and device.type != "cpu" else name
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return dtypes.get(wanted, torch.float32)


def load_causal_lm(arguments: CausalLMArguments) -> LoadedCausalLM:
    """Load and try out a causal language model.

    Raises:
        InferenceFailure: the folder, its weights, its tokenizer or its architecture cannot be used.
    """
    set_torch_threads(arguments.torch_threads)
    facts = inspect_checkpoint(arguments.model)
    device = pick_device(arguments.device)
    adapter = None if arguments.adapter is None else inspect_adapter(arguments.adapter, facts)
    model = _load_causal_model(facts, adapter, pick_dtype(arguments.dtype, facts, device), device)
    tokenizer = load_tokenizer(facts)
    window = _context_window(arguments, facts, tokenizer, longest_steady_input(model.config.get_text_config()))
    return LoadedCausalLM(
        model=model,
        tokenizer=tokenizer,
        device=device,
        context_tokens=window,
        vocabulary_size=int(model.get_input_embeddings().num_embeddings),
        end_token_ids=_end_token_ids(model, tokenizer),
        kv_token_bytes=_try_out(model, device, facts.path),
    )


def _load_causal_model(
    facts: CheckpointFacts, adapter: AdapterFacts | None, dtype: torch.dtype, device: torch.device
) -> Any:
    """Load a causal language model from files that are read rather than mapped into memory, and merge its adapter."""
    with _typed_load_failures(facts.path):
        config = AutoConfig.from_pretrained(facts.path, local_files_only=True, trust_remote_code=False)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"{type(config).__name__} is not of a causal language model")
        # The mapping's values are written as tuples for the few kinds of model that have two classes.
        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        weights = read_weights(facts.path)
        with _building:
            model, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                dtype=dtype,
                output_loading_info=True,
                **_model_options(config),
            )
        del weights
        _refuse_missing(facts.path, model, report["missing_keys"])
        if (facts.path / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(facts.path, local_files_only=True)
    if adapter is not None:
        model = _merged(model, adapter)
    return model.to(device).eval()


def _merged(model: Any, adapter: AdapterFacts) -> Any:
    with _typed_load_failures(adapter.path), _building:
        return merge_adapter(model, adapter)


def _model_options(config: Any) -> dict[str, Any]:
    # The fused attention kernels have no soft cap.
    has_soft_cap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {"attn_implementation": "eager"} if has_soft_cap else {}


def _refuse_missing(path: Path, model: Any, missing_keys: Iterable[str], may_lack: tuple[str, ...] = ()) -> None:
    missing = sorted(name for name in missing_keys if not name.startswith(may_lack))
    if missing:
        raise InferenceFailure(
            f"{path} lacks {len(missing)} of the parameters of {type(model).__name__}, for example "
            f"{missing[0]}; transformers would fill them with random numbers",
            reason="CHECKPOINT_INCOMPLETE",
            code="FAILED_PRECONDITION",
            metadata={"path": str(path), "missing": str(len(missing))},
        )


def load_model(
    from_pretrained: Callable[..., Any],
    facts: CheckpointFacts,
    dtype: torch.dtype,
    device: torch.device,
    *,
    may_lack: tuple[str, ...] = (),
    adapter: AdapterFacts | None = None,
) -> Any:
    """Load a model's weights, merge its adapter into them, and refuse a checkpoint that does not hold all of them.

    Args:
        from_pretrained: of a transformers auto class.
        facts: the checked checkpoint.
        dtype: number type of the weights in memory.
        device: where to put them.
        may_lack: beginnings of parameter names that are not needed.
        adapter: that fits the checkpoint; None for the checkpoint as it is.
    """
    # Progress bars would end up in the server's log.
    transformers_logging.disable_progress_bar()
    with _typed_load_failures(facts.path):
        config = AutoConfig.from_pretrained(facts.path, local_files_only=True, trust_remote_code=False)
        with _building:
            model, report = from_pretrained(
                facts.path,
                config=config,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **_model_options(config),
            )
        _refuse_missing(facts.path, model, report["missing_keys"], may_lack)
    if adapter is not None:
        model = _merged(model, adapter)
    return model.to(device).eval()


def load_tokenizer(facts: CheckpointFacts) -> Any:
    """Load a checkpoint's own tokenizer."""
    with _typed_load_failures(facts.path):
        tokenizer = AutoTokenizer.from_pretrained(facts.path, local_files_only=True, trust_remote_code=False)
        # The first call settles truncation and padding of the shared Rust tokenizer, which later calls, also from
        # other threads, then leave alone.
        tokenizer.encode("a")
        return tokenizer


@contextmanager
def _typed_load_failures(path: Path) -> Iterator[None]:
    """Raise whatever transformers throws at a bad checkpoint as one typed failure."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise InferenceFailure(
            f"not enough memory to load {path}",
            reason="ENGINE_OUT_OF_MEMORY",
            code="RESOURCE_EXHAUSTED",
            metadata={"path": str(path)},
        ) from error
    except _LOAD_ERRORS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InferenceFailure(
            f"transformers cannot load {path}: {lines[0]}",
            reason="CHECKPOINT_INVALID",
            code="FAILED_PRECONDITION",
            metadata={"path": str(path)},
        ) from error


def longest_steady_input(config: Any) -> int | None:
    """Return how long inputs may be for a position's rotation not to depend on the longest input; None: any length.

    With ``longrope`` and ``dynamic`` RoPE, transformers chooses the frequencies for all rows of a pass by the largest
    position in it, so beyond the length of the first training an answer would depend on its neighbours.
    """
    told: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    kinds = [told] if "rope_type" in told else [each for each in told.values() if isinstance(each, dict)]
    bounds = []
    for kind in kinds:
        if kind.get("rope_type") in ("longrope", "dynamic"):
            lengths = (
                kind.get("original_max_position_embeddings"),
                getattr(config, "original_max_position_embeddings", None),
                getattr(config, "max_position_embeddings", None),
            )
            bounds += [int(length) for length in lengths if length]
    return min(bounds, default=None)


def _context_window(
    arguments: CausalLMArguments, facts: CheckpointFacts, tokenizer: Any, longest_input: int | None
) -> int:
    limit = facts.context_tokens
    if limit is None:
        told = tokenizer.model_max_length
        # transformers writes an astronomical number where nothing is known.
        limit = int(told) if isinstance(told, int | float) and told < 1e9 else DEFAULT_CONTEXT_TOKENS
    if longest_input is not None:
        limit = min(limit, longest_input)
    wanted = arguments.max_model_len
    if wanted is None:
        return limit
    if not 1 <= wanted <= limit:
        raise InferenceFailure(
            f"max_model_len is {wanted}, but the checkpoint's context window is {limit} tokens",
            reason="CONTEXT_WINDOW_INVALID",
            code="INVALID_ARGUMENT",
            metadata={"max_model_len": str(wanted), "context_tokens": str(limit)},
        )
    return wanted


def _end_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    told = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id]
    ids: set[int] = set()
    for each in told:
        ids.update(each if isinstance(each, list | tuple) else () if each is None else (each,))
    return frozenset(ids)


@torch.inference_mode()
def _try_out(model: Any, device: torch.device, path: Path) -> int:
    """Run one token; return the bytes of its cached keys and values, and refuse what cannot be batched.

    Raises:
        InferenceFailure: ARCHITECTURE_UNSUPPORTED for models that carry a state other than keys and values.
    """
    cache = DynamicCache()
    with _typed_load_failures(path):
        model(input_ids=torch.tensor([[0]], device=device), past_key_values=cache, use_cache=True)
    try:
        tensors = layer_tensors(cache)
    except TypeError as error:
        raise InferenceFailure(
            f"{type(model).__name__} keeps more than attention keys and values between tokens ({error}), which this "
            "engine cannot batch; serve it with vLLM",
            reason="ARCHITECTURE_UNSUPPORTED",
            code="UNIMPLEMENTED",
            metadata={"architecture": type(model).__name__},
        ) from error
    return sum(tensor.numel() * tensor.element_size() for pair in tensors for tensor in pair)

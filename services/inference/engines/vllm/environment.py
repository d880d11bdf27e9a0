"""What vLLM reads from its process's environment; set before anything of vLLM is imported."""

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Final

from services.inference.contract import CausalLMArguments
from services.inference.engines.loading import TORCH_THREADS_VARIABLE
from services.inference.failures import InferenceFailure

_LEAST_CACHE_GIB: Final = 1


def require_vllm() -> None:
    """Make sure that vLLM is installed where this process looks for it.

    Raises:
        InferenceFailure: VLLM_MISSING.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InferenceFailure(
            "the vLLM engine is not installed beside the inference host: run `make vllm` (CPUs), use an image that has "
            "vLLM (GPUs), or register the model with engine transformers",
            reason="VLLM_MISSING",
            code="FAILED_PRECONDITION",
        )


def prepare_environment(arguments: CausalLMArguments) -> None:
    """Set what vLLM and the processes that it starts read."""
    cache_gib = max(_LEAST_CACHE_GIB, round(arguments.kv_cache_gib + arguments.prefix_cache_gib))
    os.environ.update(
        # Nothing is fetched, and nothing about this machine is told to anybody.
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_DO_NOT_TRACK="1",
        VLLM_LOGGING_LEVEL=os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        # One token more than the checkpoint's window is asked for, which is never computed.
        VLLM_ALLOW_LONG_MAX_MODEL_LEN="1",
        VLLM_CPU_KVCACHE_SPACE=str(cache_gib),
        VLLM_WORKER_MULTIPROC_METHOD="spawn",
    )
    threads = arguments.torch_threads or int(os.environ.get(TORCH_THREADS_VARIABLE, "0"))
    if threads:
        # Binding threads to cores would put engines that share a machine on the same ones.
        os.environ.update(OMP_NUM_THREADS=str(threads), VLLM_CPU_OMP_THREADS_BIND="nobind")
    # Inside Triton's stub sys.executable is the stub, with which no Python process can be started.
    multiprocessing.set_executable(str(Path(sys.prefix) / "bin" / "python3"))

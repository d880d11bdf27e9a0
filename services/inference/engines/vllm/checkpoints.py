"""The checkpoints of one vLLM engine: the first starts it, later ones of the same shape are read into it."""

import itertools
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from transformers import AutoConfig, GenerationConfig

from services.inference.adapters import CONFIG_FILE
from services.inference.checkpoints import inspect_checkpoint, read_json
from services.inference.contract import CausalLMArguments
from services.inference.engines.loading import DEFAULT_CONTEXT_TOKENS, load_tokenizer
from services.inference.engines.request_reading import RequestReader, TextFacts, answering_failures
from services.inference.engines.seams import EngineMetrics, Responder, Tensors
from services.inference.engines.vllm.engine import StartEngine, VllmEngine, Weights
from services.inference.engines.vllm.environment import prepare_environment, require_vllm
from services.inference.engines.vllm.token_engine import Adapter, crashed
from services.inference.failures import InferenceFailure

_ADAPTER_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)
"""Largest ranks that vLLM can be told to make room for."""
_NOT_IN_VLLM: Final = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "trainable_token_indices")
"""Settings of an adapter's configuration, beside its bias, with which vLLM's answers would not be the adapter's."""


class VllmCheckpoints:
    """Loads checkpoints for a ``CheckpointHost``.

    Args:
        metrics: where the engine reports.
    """

    def __init__(self, metrics: EngineMetrics) -> None:
        self._metrics = metrics
        self._starting = threading.Lock()
        self._engine: VllmEngine | None = None
        self._totals: Mapping[str, float] = {}
        self._window = 0
        self._adapter_rank = 0
        self._adapter_numbers = itertools.count(1)

    def load(
        self, arguments: CausalLMArguments, metrics: EngineMetrics, turn: AbstractContextManager[object]
    ) -> "VllmCheckpoint":
        """Load a checkpoint: start vLLM, or read the weights into the one that runs.

        Args:
            arguments: the checkpoint, and the engine's bounds if it is the first.
            metrics: unused, because vLLM's figures are of all checkpoints together.
            turn: unused, because vLLM takes turns by itself.

        Raises:
            InferenceFailure: the checkpoint cannot be used, or does not fit into the running engine.
        """
        require_vllm()
        facts, rank = read_text_facts(arguments), _adapter_rank(arguments)
        adapter = None
        if arguments.adapter is not None:
            number = next(self._adapter_numbers)
            adapter = Adapter(f"adapter-{number}", number, arguments.adapter)
        weights = Weights(arguments.model, _stamp(arguments.model), adapter)
        with self._starting:
            if self._engine is not None and self._engine.is_dead:
                self.close()
            if self._engine is None:
                self._engine = VllmEngine(
                    _starter(arguments, facts.context_tokens, rank),
                    weights,
                    self._metrics,
                    stamp_of=_stamp,
                    totals=self._totals,
                )
                self._window, self._adapter_rank = facts.context_tokens, rank
            self._check_fit(arguments, facts, rank)
            self._engine.try_out(weights)
        return VllmCheckpoint(self, RequestReader(facts), weights)

    def engine(self) -> VllmEngine:
        """Return the running engine.

        Raises:
            InferenceFailure: ENGINE_CRASHED, it is starting anew.
        """
        engine = self._engine
        if engine is None:
            raise crashed("vLLM is starting anew")
        return engine

    def close(self) -> None:
        """End vLLM; what it has counted stays."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._totals = engine.totals
            engine.close()

    def _check_fit(self, arguments: CausalLMArguments, facts: TextFacts, rank: int) -> None:
        if facts.context_tokens > self._window or rank > self._adapter_rank:
            raise InferenceFailure(
                f"{arguments.model} does not fit into the running vLLM engine, which was started for {self._window} "
                f"tokens of context and adapters up to rank {self._adapter_rank}",
                reason="CHECKPOINT_SHAPE_DIFFERS",
                code="FAILED_PRECONDITION",
                metadata={"path": arguments.model},
            )


class VllmCheckpoint:
    """One checkpoint as the host sees it: an engine of its own.

    Args:
        checkpoints: knows the running engine.
        reader: reads requests with the checkpoint's own tokenizer.
        weights: what to compute with.
    """

    def __init__(self, checkpoints: VllmCheckpoints, reader: RequestReader, weights: Weights) -> None:
        self._checkpoints = checkpoints
        self._reader = reader
        self._weights = weights

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request and return before it is computed; a bad one is answered with its failure."""
        with answering_failures(responder):
            request = self._reader.read(tensors, _EndedOnce(responder))
            self._checkpoints.engine().submit(request, self._weights)

    def close(self) -> None:
        """Leave the engine as it is: the next checkpoint takes it over."""


class _EndedOnce:
    """Asks nothing about a request that has been answered: Triton has let go of it, and would crash."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._has_ended = False

    def send(self, tensors: Tensors) -> None:
        self._responder.send(tensors)

    def finish(self, tensors: Tensors | None = None) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._responder.finish(tensors)

    def fail(self, failure: InferenceFailure) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._responder.fail(failure)

    def is_cancelled(self) -> bool:
        return not self._has_ended and self._responder.is_cancelled()


def read_text_facts(arguments: CausalLMArguments) -> TextFacts:
    """Read what requests need to know of a checkpoint, without its weights.

    Raises:
        InferenceFailure: the checkpoint cannot be used.
    """
    facts = inspect_checkpoint(arguments.model)
    tokenizer = load_tokenizer(facts)
    try:
        config = AutoConfig.from_pretrained(facts.path, local_files_only=True, trust_remote_code=False)
        vocabulary_size = int(config.get_text_config().vocab_size)
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InferenceFailure(
            f"transformers cannot read {facts.path / 'config.json'}: {error}",
            reason="CHECKPOINT_INVALID",
            code="FAILED_PRECONDITION",
            metadata={"path": str(facts.path)},
        ) from error
    window = arguments.max_model_len or facts.context_tokens or DEFAULT_CONTEXT_TOKENS
    return TextFacts(tokenizer, window, vocabulary_size, _end_token_ids(facts.path, config, tokenizer))


def _end_token_ids(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    told = [tokenizer.eos_token_id, getattr(config, "eos_token_id", None)]
    if (folder / "generation_config.json").is_file():
        told.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    ids: set[int] = set()
    for each in told:
        ids.update(each if isinstance(each, list | tuple) else () if each is None else (each,))
    return frozenset(ids)


def _adapter_rank(arguments: CausalLMArguments) -> int:
    """Return the room that the checkpoint's adapter needs; 0 without one."""
    if arguments.adapter is None:
        return 0
    config = read_json(Path(arguments.adapter) / CONFIG_FILE)
    _check_adapter_kind(config, arguments.adapter)
    told = config.get("r")
    fitting = [rank for rank in _ADAPTER_RANKS if isinstance(told, int) and 0 < told <= rank]
    if not fitting:
        raise InferenceFailure(
            f"{arguments.adapter}: vLLM has no room for a LoRA adapter of rank {told!r}; at most {_ADAPTER_RANKS[-1]}",
            reason="ADAPTER_INVALID",
            code="FAILED_PRECONDITION",
            metadata={"path": arguments.adapter},
        )
    return fitting[0]


def _check_adapter_kind(config: Mapping[str, Any], folder: str) -> None:
    """Refuse what vLLM would not compute, or, worse, pass over: it reads one rank and one scale of an adapter."""
    used = [name for name in _NOT_IN_VLLM if config.get(name)]
    used += ["bias"] if config.get("bias", "none") != "none" else []
    if used:
        raise InferenceFailure(
            f"{folder} uses {', '.join(used)}, which vLLM does not apply; register it with engine transformers",
            reason="ADAPTER_UNSUPPORTED",
            code="FAILED_PRECONDITION",
            metadata={"path": folder},
            field="adapter_path",
        )


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    stats = ((file.name, file.stat()) for file in sorted(Path(folder).glob("*.safetensors")))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _starter(arguments: CausalLMArguments, window: int, rank: int) -> StartEngine:
    def start(watch: Any) -> Any:
        prepare_environment(arguments)
        # Imported late: it reads the environment, and it takes seconds.
        from services.inference.engines.vllm.process import VllmProcess

        return VllmProcess(arguments, window, max_adapter_rank=rank, watch=watch)

    return start

"""The causal-LM engine: requests as tensors in, answers as tensors out, computed by the scheduler's thread."""

from contextlib import AbstractContextManager
from typing import Final

from services.inference.contract import CausalLMArguments
from services.inference.engines.loading import LoadedCausalLM, load_causal_lm
from services.inference.engines.model_choice import choose_model
from services.inference.engines.request_reading import RequestReader, TextFacts, answering_failures
from services.inference.engines.scheduler import Limits, Scheduler
from services.inference.engines.seams import EngineMetrics, Responder, Tensors

_GIB: Final = 1 << 30


class CausalLMEngine:
    """Generates and scores with one checkpoint.

    Args:
        loaded: the checkpoint in memory.
        arguments: bounds on a batch.
        metrics: where to report.
        turn: held while something is computed, for engines that share a process.
    """

    def __init__(
        self,
        loaded: LoadedCausalLM,
        arguments: CausalLMArguments,
        metrics: EngineMetrics,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self._reader = RequestReader(
            TextFacts(loaded.tokenizer, loaded.context_tokens, loaded.vocabulary_size, loaded.end_token_ids)
        )
        limits = Limits(
            max_sequences=arguments.max_num_seqs,
            kv_tokens=int(arguments.kv_cache_gib * _GIB) // loaded.kv_token_bytes,
            kv_bytes=int((arguments.kv_cache_gib + arguments.prefix_cache_gib) * _GIB),
        )
        self._scheduler = Scheduler(choose_model(loaded, arguments), limits, metrics, turn)

    @classmethod
    def load(
        cls, arguments: CausalLMArguments, metrics: EngineMetrics, turn: AbstractContextManager[object] | None = None
    ) -> "CausalLMEngine":
        """Load a checkpoint and start its engine.

        Raises:
            InferenceFailure: the checkpoint cannot be used.
        """
        return cls(load_causal_lm(arguments), arguments, metrics, turn)

    def submit(self, tensors: Tensors, responder: Responder) -> None:
        """Take a request and return before it is computed; a bad one is answered with its failure."""
        with answering_failures(responder):
            self._scheduler.submit(self._reader.read(tensors, responder))

    def close(self) -> None:
        """Fail what is left and stop computing."""
        self._scheduler.close()

"""vLLM's asynchronous engine as a token engine. The only module here that imports vLLM.

Tokenizing, stop texts and answers' texts are ours, so that both engines agree on them: vLLM gets token ids and gives
token ids.
"""

import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Final

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from services.inference.contract import CausalLMArguments
from services.inference.engines.vllm.token_engine import (
    Adapter,
    GeneratedTokens,
    GenerationJob,
    SchedulerWatch,
    ScoredPrompt,
    ScoringJob,
    TokenScore,
    crashed,
)
from services.inference.failures import InferenceFailure

_BLOCK_TOKENS: Final = 32
"""Tokens of a block of the prefix cache, which shares whole blocks only; the smallest that vLLM's CPU kernels take."""
_LARGEST_SEED: Final = (1 << 63) - 1


class VllmProcess:
    """Implements ``TokenEngine`` over vLLM's engine, which runs in processes of its own. Make it on its event loop.

    Args:
        arguments: the first checkpoint, whose shape all later ones must have, and bounds.
        window: context window in tokens.
        max_adapter_rank: largest rank of a LoRA adapter; 0 for none.
        watch: told what the scheduler does.
    """

    def __init__(
        self, arguments: CausalLMArguments, window: int, *, max_adapter_rank: int, watch: SchedulerWatch
    ) -> None:
        self._numbers = itertools.count()
        with _typed_start(arguments.model):
            self._arguments = AsyncEngineArgs(
                model=arguments.model,
                dtype=arguments.dtype,
                skip_tokenizer_init=True,
                trust_remote_code=False,
                load_format="safetensors",
                # A continuation's last token is never computed, so a prompt may fill the window.
                max_model_len=window + 1,
                max_num_seqs=arguments.max_num_seqs,
                max_num_batched_tokens=max(arguments.max_num_batched_tokens, window + 1),
                block_size=_BLOCK_TOKENS,
                enable_prefix_caching=True,
                logprobs_mode="raw_logprobs",
                # Compiling takes longer than an evaluation on a CPU, and is done again in every new process.
                enforce_eager=_is_cpu(),
                enable_lora=max_adapter_rank > 0,
                max_lora_rank=max_adapter_rank or 16,
                disable_log_stats=False,
                seed=0,
            )
            self._logger = _watching_logger(watch)
            self._llm = AsyncLLM.from_engine_args(self._arguments, stat_loggers=[self._logger])

    async def generate(self, job: GenerationJob) -> AsyncGenerator[GeneratedTokens, None]:
        """Generate one answer."""
        sampling = job.sampling
        parameters = SamplingParams(
            max_tokens=job.max_tokens,
            min_tokens=min(sampling.min_tokens, job.max_tokens),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            seed=None if sampling.seed is None else sampling.seed & _LARGEST_SEED,
            stop_token_ids=sorted(job.ending_token_ids),
            ignore_eos=True,
            logprobs=0 if job.wants_log_probabilities else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if job.in_pieces else RequestOutputKind.FINAL_ONLY,
        )
        async with contextlib.aclosing(self._run(job.prompt, parameters, job.adapter)) as outputs:
            async for output in outputs:
                [answer] = output.outputs
                ids = list(answer.token_ids)
                chances = [
                    each[token].logprob for each, token in zip(answer.logprobs or (), ids, strict=bool(answer.logprobs))
                ]
                yield GeneratedTokens(ids, chances, output.num_cached_tokens or 0)

    async def score(self, job: ScoringJob) -> ScoredPrompt:
        """Score one prompt."""
        parameters = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            ignore_eos=True,
            logprob_token_ids=list(job.next_ids),
            prompt_logprobs=0 if job.wants_prompt else None,
            flat_logprobs=job.wants_prompt,
            # vLLM's default for prompt scores is not to; positions from the cache have none, which we know.
            skip_reading_prefix_cache=not job.may_read_cache,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        last: RequestOutput | None = None
        async with contextlib.aclosing(self._run(job.prompt, parameters, job.adapter)) as outputs:
            async for output in outputs:
                last = output
        if last is None or not last.outputs[0].logprobs:
            raise crashed("vLLM gave no answer")
        [greedy] = last.outputs[0].token_ids
        [chances] = last.outputs[0].logprobs
        cached = last.num_cached_tokens or 0
        return ScoredPrompt(
            next_scores={each: TokenScore(chances[each].logprob, each == greedy) for each in job.next_ids},
            prompt_scores=_prompt_scores(job, last, cached) if job.wants_prompt else {},
            num_cached_tokens=cached,
        )

    async def reload(self, path: str) -> None:
        """Read other weights into the running engine; what was cached with the old ones is forgotten."""
        with _typed_start(path):
            if self._llm.vllm_config.model_config.hf_text_config.tie_word_embeddings:
                # vLLM 0.32 goes on computing logits with the old weights where the output layer is the embedding's:
                # its CPU kernels keep a packed copy of them. So it starts anew.
                self._llm.shutdown()
                self._arguments.model = path
                self._llm = AsyncLLM.from_engine_args(self._arguments, stat_loggers=[self._logger])
                return
            await self._llm.collective_rpc("reload_weights", kwargs={"weights_path": path})
            if not await self._llm.reset_prefix_cache():
                raise RuntimeError("vLLM's prefix cache is still in use")

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()

    async def _run(
        self, prompt: Any, parameters: SamplingParams, adapter: Adapter | None
    ) -> AsyncGenerator[RequestOutput, None]:
        request = None if adapter is None else LoRARequest(adapter.name, adapter.number, adapter.path)
        try:
            outputs = self._llm.generate(
                {"prompt_token_ids": list(prompt)}, parameters, str(next(self._numbers)), lora_request=request
            )
            async with contextlib.aclosing(outputs) as closing:
                async for output in closing:
                    yield output
        except EngineDeadError as error:
            raise crashed("vLLM's engine process has died") from error
        except (EngineGenerateError, ValueError) as error:
            cause = error.__cause__ or error
            raise InferenceFailure(
                f"vLLM refuses the request: {cause}", reason="ENGINE_FAILED", code="INTERNAL"
            ) from error


def _is_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _prompt_scores(job: ScoringJob, output: RequestOutput, cached: int) -> dict[int, TokenScore]:
    table: Any = output.prompt_logprobs
    scores: dict[int, TokenScore] = {}
    # What lies in the cache was not computed: its rows hold whatever was in that memory before.
    for position in range(cached + 1, len(job.prompt)):
        score = table[position][job.prompt[position]]
        scores[position] = TokenScore(score.logprob, score.rank == 1)
    return scores


def _watching_logger(watch: SchedulerWatch) -> Any:
    class Logger(StatLoggerBase):  # type: ignore[misc]  # Any where vLLM is not installed
        """Hands vLLM's own figures on."""

        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            figures: dict[str, float] = {}
            if scheduler_stats is not None:
                figures["running"] = scheduler_stats.num_running_reqs
                figures["waiting"] = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
                figures["kv_usage"] = scheduler_stats.kv_cache_usage
            if iteration_stats is not None:
                figures["prompt_tokens"] = iteration_stats.prompt_token_stats.computed
                figures["cached_tokens"] = iteration_stats.prompt_token_stats.cached_tokens
                figures["generated_tokens"] = iteration_stats.num_generation_tokens
            watch(figures)

        def log_engine_initialized(self) -> None:
            """Say nothing."""

    return Logger


@contextlib.contextmanager
def _typed_start(path: str) -> Iterator[None]:
    try:
        yield
    except InferenceFailure:
        raise
    except EngineDeadError as error:
        raise crashed("vLLM's engine process has died") from error
    except Exception as error:  # vLLM raises whatever comes to its mind over a checkpoint
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InferenceFailure(
            f"vLLM cannot load {path}: {lines[0][:500]}",
            reason="CHECKPOINT_INVALID",
            code="FAILED_PRECONDITION",
            metadata={"path": path},
        ) from error

"""Between the contract's messages and the domain: everything that comes in is checked here."""

from functools import lru_cache

from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2
from google.protobuf import duration_pb2

from services.generation.cost.caller_ledger import CallerUsage
from services.generation.model_messages import read_model_id
from services.generation.requests import (
    CacheExplanation,
    CacheMode,
    CacheOutcome,
    FinishReason,
    GenerationRequest,
    GenerationResult,
    Priority,
    Prompt,
    Role,
    Sampling,
    ScoringRequest,
    ScoringResult,
    Turn,
    Usage,
)
from services.generation.violations import Violations
from services.inference.sampling import MAX_OUTPUT_TOKENS, MAX_STOP_STRING_CHARACTERS
from services.runtime.trace_context import valid_traceparent

MAX_SAMPLES = 128
MAX_BATCH = 256
MAX_CONTINUATIONS = 256
_MAX_STOPS = 16
_HIGHEST_TEMPERATURE = 2.0
_REMEMBERED_SAMPLINGS = 256
_LARGEST_REMEMBERED_BYTES = 1024

_ROLES: dict[int, Role] = {
    common_pb2.ROLE_SYSTEM: "system",
    common_pb2.ROLE_USER: "user",
    common_pb2.ROLE_ASSISTANT: "assistant",
}
_PRIORITIES = {
    generation_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    generation_pb2.PRIORITY_EVALUATION: Priority.EVALUATION,
    generation_pb2.PRIORITY_BACKGROUND: Priority.BACKGROUND,
}
_TRUNCATIONS = {
    generation_pb2.TRUNCATION_POLICY_UNSPECIFIED: False,
    generation_pb2.TRUNCATION_POLICY_FAIL: False,
    generation_pb2.TRUNCATION_POLICY_LEFT: True,
}
_CACHE_MODES = {
    generation_pb2.CACHE_MODE_UNSPECIFIED: CacheMode.USE,
    generation_pb2.CACHE_MODE_USE: CacheMode.USE,
    generation_pb2.CACHE_MODE_REFRESH: CacheMode.REFRESH,
    generation_pb2.CACHE_MODE_BYPASS: CacheMode.BYPASS,
}
_CACHE_OUTCOMES = {
    outcome: generation_pb2.CacheOutcome.Value(f"CACHE_OUTCOME_{outcome.name}") for outcome in CacheOutcome
}
_FINISH_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}


def generation_request(
    message: generation_pb2.GenerateRequest, default: Priority = Priority.EVALUATION
) -> GenerationRequest:
    """Check and read a request to generate.

    Args:
        message: the request.
        default: its priority if it says none.

    Raises:
        InvalidArgumentError: lists every invalid field.
    """
    bad = Violations()
    request = GenerationRequest(
        model_id=read_model_id(message.model, "model", bad),
        prompt=_prompt(message, message.WhichOneof("input"), bad, may_be_empty=False),
        sampling=_sampling(message.sampling, bad),
        sample_count=message.sample_count if message.HasField("sample_count") else 1,
        truncate=_truncate(message.truncation, bad),
        cache_mode=_cache_mode(message.cache_mode, bad),
        explain_cache=message.explain_cache,
        priority=_priority(message.priority, default, bad),
        traceparent=valid_traceparent(message.traceparent),
    )
    bad.require(1 <= request.sample_count <= MAX_SAMPLES, "sample_count", f"must be from 1 to {MAX_SAMPLES}")
    bad.require(
        request.sample_count <= 1 or request.sampling.temperature != 0,
        "sample_count",
        "above 1 needs sampling.temperature above 0, because greedy answers are all the same",
    )
    bad.raise_any()
    return request


def scoring_request(message: generation_pb2.ScoreContinuationsRequest) -> ScoringRequest:
    """Check and read a request to score continuations.

    Raises:
        InvalidArgumentError: lists every invalid field.
    """
    bad = Violations()
    count = len(message.continuations)
    bad.require(
        1 <= count <= MAX_CONTINUATIONS, "continuations", f"must hold 1 to {MAX_CONTINUATIONS} texts, not {count}"
    )
    for index, text in enumerate(message.continuations):
        _check_text(text, f"continuations[{index}]", bad)
    request = ScoringRequest(
        model_id=read_model_id(message.model, "model", bad),
        context=_prompt(message, message.WhichOneof("context"), bad, may_be_empty=True),
        continuations=tuple(message.continuations),
        truncate=_truncate(message.truncation, bad),
        cache_mode=_cache_mode(message.cache_mode, bad),
        explain_cache=message.explain_cache,
        priority=_priority(message.priority, Priority.EVALUATION, bad),
    )
    bad.raise_any()
    return request


def check_batch_size(count: int) -> None:
    """Check the number of requests of a batch.

    Raises:
        InvalidArgumentError: none, or too many.
    """
    bad = Violations()
    bad.require(1 <= count <= MAX_BATCH, "requests", f"must hold 1 to {MAX_BATCH} requests, not {count}")
    bad.raise_any()


def _prompt(
    message: generation_pb2.GenerateRequest | generation_pb2.ScoreContinuationsRequest,
    chosen: str | None,
    bad: Violations,
    *,
    may_be_empty: bool,
) -> Prompt:
    if chosen == "conversation":
        return _turns(message.conversation, bad)
    if chosen is None:
        bad.add("prompt", "or conversation must be set")
    else:
        _check_text(message.prompt, "prompt", bad, may_be_empty=may_be_empty)
    return message.prompt


def _check_text(text: str, field: str, bad: Violations, *, may_be_empty: bool = False) -> None:
    bad.require(bool(text) or may_be_empty, field, "must not be empty")
    # No tokenizer gives it a meaning, and databases refuse it: it is always somebody's broken file.
    bad.require("\0" not in text, field, "must not hold NUL characters")


def _turns(conversation: common_pb2.Conversation, bad: Violations) -> tuple[Turn, ...]:
    bad.require(bool(conversation.messages), "conversation.messages", "must hold at least one turn")
    turns = []
    for index, message in enumerate(conversation.messages):
        path = f"conversation.messages[{index}]"
        role = _ROLES.get(message.role)
        bad.require(role is not None, f"{path}.role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT")
        bad.require(role != "system" or index == 0, f"{path}.role", "must come first if it is ROLE_SYSTEM")
        _check_text(message.content, f"{path}.content", bad)
        turns.append(Turn(role or "user", message.content))
    return tuple(turns)


def _sampling(message: generation_pb2.SamplingParameters, bad: Violations) -> Sampling:
    written = message.SerializeToString(deterministic=True)
    remembered = _valid_sampling(written) if len(written) <= _LARGEST_REMEMBERED_BYTES else None
    return remembered or _read_sampling(message, bad)


@lru_cache(maxsize=_REMEMBERED_SAMPLINGS)
def _valid_sampling(written: bytes) -> Sampling | None:
    """Read sampling parameters, ``None`` if they are not in order; the requests of an evaluation share theirs."""
    bad = Violations()
    sampling = _read_sampling(generation_pb2.SamplingParameters.FromString(written), bad)
    return None if bad else sampling


def _read_sampling(message: generation_pb2.SamplingParameters, bad: Violations) -> Sampling:
    default = Sampling()
    sampling = Sampling(
        max_tokens=message.max_tokens if message.HasField("max_tokens") else default.max_tokens,
        temperature=message.temperature if message.HasField("temperature") else default.temperature,
        top_p=message.top_p if message.HasField("top_p") else default.top_p,
        top_k=message.top_k if message.HasField("top_k") else default.top_k,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
    )
    # Comparisons are written so that NaN fails them.
    bad.require(
        1 <= sampling.max_tokens <= MAX_OUTPUT_TOKENS, "sampling.max_tokens", f"must be from 1 to {MAX_OUTPUT_TOKENS}"
    )
    bad.require(
        0 <= sampling.temperature <= _HIGHEST_TEMPERATURE,
        "sampling.temperature",
        f"must be from 0 (greedy) to {_HIGHEST_TEMPERATURE:g}",
    )
    bad.require(0 < sampling.top_p <= 1, "sampling.top_p", "must be above 0 and at most 1")
    bad.require(sampling.top_k >= 0, "sampling.top_k", "must be 0 (all tokens) or positive")
    bad.require(len(sampling.stop) <= _MAX_STOPS, "sampling.stop", f"must hold at most {_MAX_STOPS} strings")
    for index, text in enumerate(sampling.stop):
        is_valid = 1 <= len(text) <= MAX_STOP_STRING_CHARACTERS
        bad.require(is_valid, f"sampling.stop[{index}]", f"must have 1 to {MAX_STOP_STRING_CHARACTERS} characters")
        bad.require("\0" not in text, f"sampling.stop[{index}]", "must not hold NUL characters")
    return sampling


def _priority(value: generation_pb2.Priority.ValueType, default: Priority, bad: Violations) -> Priority:
    if value == generation_pb2.PRIORITY_UNSPECIFIED:
        return default
    bad.require(value in _PRIORITIES, "priority", f"has no value {value}; use INTERACTIVE, EVALUATION or BACKGROUND")
    return _PRIORITIES.get(value, default)


def _truncate(policy: generation_pb2.TruncationPolicy.ValueType, bad: Violations) -> bool:
    bad.require(policy in _TRUNCATIONS, "truncation", f"has no policy {policy}; use FAIL or LEFT")
    return _TRUNCATIONS.get(policy, False)


def _cache_mode(mode: generation_pb2.CacheMode.ValueType, bad: Violations) -> CacheMode:
    bad.require(mode in _CACHE_MODES, "cache_mode", f"is the unknown mode {mode}; use USE, REFRESH or BYPASS")
    return _CACHE_MODES.get(mode, CacheMode.USE)


def generation_response(result: GenerationResult) -> generation_pb2.GenerateResponse:
    """Write the answers to one request."""
    completions = [
        generation_pb2.Completion(
            text=each.text,
            finish_reason=_FINISH_REASONS[each.finish_reason],
            token_count=each.token_count,
            cached=each.cached,
        )
        for each in result.completions
    ]
    return generation_pb2.GenerateResponse(
        completions=completions,
        usage=usage_message(result.usage),
        model_digest=result.model_digest,
        truncated=result.truncated,
        cached=result.is_cached,
        cache_explanation=None if result.cache is None else _explanation(result.cache),
    )


def scoring_response(result: ScoringResult) -> generation_pb2.ScoreContinuationsResponse:
    """Write the scores of all continuations."""
    scores = [
        generation_pb2.ContinuationScore(
            log_likelihood=each.log_likelihood, is_greedy=each.is_greedy, token_count=each.token_count
        )
        for each in result.scores
    ]
    return generation_pb2.ScoreContinuationsResponse(
        scores=scores,
        usage=usage_message(result.usage),
        model_digest=result.model_digest,
        truncated=result.truncated,
        cached=result.is_cached,
        cache_explanation=None if result.cache is None else _explanation(result.cache),
    )


def caller_message(sums: CallerUsage) -> generation_pb2.CallerUsage:
    """Write what a caller has cost."""
    message = generation_pb2.CallerUsage(
        caller=sums.caller,
        request_count=sums.requests,
        cached_request_count=sums.cached_requests,
        usage=usage_message(sums.usage),
    )
    message.first_time.FromNanoseconds(round(sums.first_seconds * 1e9))
    message.last_time.FromNanoseconds(round(sums.last_seconds * 1e9))
    return message


def _explanation(cache: CacheExplanation) -> generation_pb2.CacheExplanation:
    message = generation_pb2.CacheExplanation(
        outcome=_CACHE_OUTCOMES[cache.outcome],
        sample_index=cache.sample_index,
        key=cache.key,
        differing_parts=cache.differing_parts,
    )
    if cache.nearest_time is not None:
        message.nearest_entry_time.FromDatetime(cache.nearest_time)
    return message


def usage_message(usage: Usage) -> common_pb2.Usage:
    """Write a cost; a part of a millionth of a dollar counts as one."""
    engine_time = duration_pb2.Duration()
    engine_time.FromNanoseconds(round(usage.engine_seconds * 1e9))
    return common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        engine_time=engine_time,
        computed_prompt_tokens=usage.computed_prompt_tokens,
        computed_completion_tokens=usage.computed_completion_tokens,
        prefix_saved_tokens=usage.prefix_saved_tokens,
        cache_saved_tokens=usage.cache_saved_tokens,
        cost_micro_usd=-(-usage.cost_nano_usd // 1000),
    )

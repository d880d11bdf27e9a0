"""Between the run's dataclasses and the other services' protos."""

import dataclasses
from collections.abc import Sequence

from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from evalfleet.generation.v1 import generation_pb2
from evalfleet.safety.v1 import safety_pb2
from evalfleet.scoring.v1 import scoring_pb2

from services.evaluation.items import ChatPrompt, Message, PlainPrompt, Prompt
from services.evaluation.judging_specification import ScorerUse
from services.evaluation.runs.outcome import ItemOutcome, JudgeReference
from services.evaluation.runs.peers import GeneratedText, GenerationOptions, SafetyVerdict, ScoredOutput, ScorerCall
from services.runtime.usage import NO_USAGE, Usage
from services.runtime.usage_messages import usage_from_proto, usage_to_proto

_ROLES = {
    "system": common_pb2.ROLE_SYSTEM,
    "user": common_pb2.ROLE_USER,
    "assistant": common_pb2.ROLE_ASSISTANT,
}
# Whatever is not listed, a new enum value included, is an error: safety fails closed.
_DECISIONS = {
    safety_pb2.DECISION_SAFE: "safe",
    safety_pb2.DECISION_UNSAFE: "unsafe",
    safety_pb2.DECISION_CONTROVERSIAL: "controversial",
}


def conversation(messages: Sequence[Message]) -> common_pb2.Conversation:
    """Turns as a proto."""
    return common_pb2.Conversation(
        messages=[common_pb2.Message(role=_ROLES[each.role], content=each.content) for each in messages]
    )


def truncation(left: bool) -> generation_pb2.TruncationPolicy.ValueType:
    """What to do with a prompt that does not fit."""
    return generation_pb2.TRUNCATION_POLICY_LEFT if left else generation_pb2.TRUNCATION_POLICY_FAIL


def generate_request(model: str, prompt: Prompt, options: GenerationOptions) -> generation_pb2.GenerateRequest:
    """One generation as a proto."""
    sampling = generation_pb2.SamplingParameters(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        stop=options.stop,
        seed=options.seed,
    )
    request = generation_pb2.GenerateRequest(
        model=model,
        sampling=sampling,
        sample_count=options.sample_count,
        truncation=truncation(options.truncate_left),
    )
    match prompt:
        case ChatPrompt(messages):
            request.conversation.CopyFrom(conversation(messages))
        case PlainPrompt(text):
            request.prompt = text
    return request


def score_continuations_request(
    model: str, context: Prompt, continuations: Sequence[str], *, truncate_left: bool
) -> generation_pb2.ScoreContinuationsRequest:
    """Log-likelihoods of one context's continuations as a proto."""
    request = generation_pb2.ScoreContinuationsRequest(
        model=model, continuations=continuations, truncation=truncation(truncate_left)
    )
    match context:
        case ChatPrompt(messages):
            request.conversation.CopyFrom(conversation(messages))
        case PlainPrompt(text):
            request.prompt = text
    return request


def generated_from_proto(response: generation_pb2.GenerateResponse) -> tuple[GeneratedText, ...]:
    """The answers to one request; what cannot be told apart is booked to the first, engine time in equal shares."""
    usage = usage_from_proto(response.usage)
    model_digest, truncated = response.model_digest, response.truncated
    if len(response.completions) == 1:
        [completion] = response.completions
        return (GeneratedText(completion.text, usage, model_digest, truncated),)
    count = max(1, len(response.completions))
    rest = Usage(engine_seconds=usage.engine_seconds / count)
    first = dataclasses.replace(usage, engine_seconds=usage.engine_seconds / count)
    return tuple(
        GeneratedText(
            text=completion.text,
            usage=dataclasses.replace(rest if index else first, completion_tokens=completion.token_count),
            model_digest=model_digest,
            truncated=truncated,
        )
        for index, completion in enumerate(response.completions)
    )


def verdict_from_proto(verdict: safety_pb2.Verdict) -> SafetyVerdict:
    """What a guard or a policy decided; an unknown decision is an error."""
    guards = [each.guard for each in verdict.guard_verdicts] or [verdict.guard]
    judges = [_guard_reference(guard) for guard in guards]
    if verdict.HasField("policy"):
        policy = verdict.policy
        judges.append(JudgeReference(policy.name, policy.version, policy.digest))
    return SafetyVerdict(
        decision=_DECISIONS.get(verdict.decision, "error"),
        error_reason=verdict.error_reason or "UNKNOWN_DECISION",
        truncated=verdict.truncated,
        judges=tuple(judges),
        usage=usage_from_proto(verdict.usage),
    )


def _guard_reference(guard: safety_pb2.GuardReference) -> JudgeReference:
    digest = ":".join((guard.weights_digest, guard.template_digest, guard.calibration_digest))
    return JudgeReference(guard.name, guard.engine, digest)


def score_request(call: ScorerCall) -> scoring_pb2.ScoreRequest:
    """One scorer call as a proto."""
    request = scoring_pb2.ScoreRequest(
        scorer=f"scorers/{call.scorer}", targets=call.targets, gold_indices=call.gold_indices, prompt=call.prompt
    )
    if call.parameters:
        request.parameters.update(call.parameters)
    if call.details:
        request.details.update(call.details)
    if call.token_count is not None:
        request.token_scores.CopyFrom(
            scoring_pb2.TokenScores(
                log_likelihoods=call.log_likelihoods, text=call.text or "", token_count=call.token_count
            )
        )
    elif call.log_likelihoods is not None:
        request.choices.CopyFrom(
            scoring_pb2.ChoiceScores(
                log_likelihoods=call.log_likelihoods,
                choices=call.choices,
                unconditional_log_likelihoods=call.unconditional,
            )
        )
    else:
        request.text = call.text or ""
    return request


def parameters_request(use: ScorerUse) -> scoring_pb2.ScoreRequest:
    """A scorer's parameters without an output: what is refused for them is, and nothing is judged."""
    request = scoring_pb2.ScoreRequest(scorer=f"scorers/{use.scorer}")
    if use.parameters:
        request.parameters.update(use.parameters)
    return request


def scored_from_proto(response: scoring_pb2.ScoreResponse) -> ScoredOutput:
    """What one scorer says."""
    return ScoredOutput(
        metrics=dict(response.metrics),
        extracted_answer=response.extracted_answer if response.HasField("extracted_answer") else None,
        scorer=JudgeReference(response.scorer.name, response.scorer.version, response.scorer.digest),
        usage=usage_from_proto(response.usage) if response.HasField("usage") else NO_USAGE,
    )


def result_to_proto(run: str, outcome: ItemOutcome) -> aggregation_pb2.Result:
    """One outcome as the ledger's row."""
    result = aggregation_pb2.Result(
        run=run,
        task=outcome.task,
        item=outcome.item,
        sample=outcome.sample,
        groups=dict(outcome.groups),
        draw_index=outcome.draw_index,
        usage=usage_to_proto(outcome.usage),
        judges=[
            common_pb2.JudgeReference(name=judge.name, version=judge.version, digest=judge.digest)
            for judge in outcome.judges
        ],
        model_digest=outcome.model_digest,
        prompt=outcome.prompt,
        output=outcome.output,
        truncated=outcome.truncated,
        targets=outcome.targets,
    )
    seconds, nanos = divmod(int(outcome.complete_time * 1e9), 1_000_000_000)
    result.complete_time.seconds, result.complete_time.nanos = seconds, nanos
    result.metric_failures.extend(
        aggregation_pb2.MetricFailure(
            metrics=each.metrics, reason=each.reason, message=each.message, counted_as=dict(each.counted_as)
        )
        for each in outcome.metric_failures
    )
    if outcome.failure is not None:
        failure = outcome.failure
        result.failure.CopyFrom(
            aggregation_pb2.Failure(reason=failure.reason, message=failure.message, counted_as=dict(failure.counted_as))
        )
    else:
        result.scored.CopyFrom(
            aggregation_pb2.Scored(metrics=dict(outcome.metrics or {}), extracted_answer=outcome.extracted_answer)
        )
    return result

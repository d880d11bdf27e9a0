"""The fleet's scorers and guards as scorers of Inspect AI."""

from collections.abc import Callable, Mapping
from functools import cache

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageTool
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    NOANSWER,
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    accuracy,
    mean,
    metric,
    scorer,
    stderr,
)
from inspect_ai.solver import TaskState

from evalfleet.errors import (
    EvalFleetError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from evalfleet.fleet import Fleet
from evalfleet.plugins.inspect import messages
from evalfleet.plugins.inspect.blocking import patiently
from evalfleet.results import Decision, Verdict
from evalfleet.verdicts import Aspect

GRADER_FAILED = "grader_failed"
SCORING_FAILED = "scoring_failed"
"""Inspect's reasons for scores of which nothing is known; the model is not to blame."""

# These would be the same for every sample, or mean that nobody is there: the sample fails, and with it the evaluation.
_NOT_OF_THIS_SAMPLE = (
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)


@scorer(metrics=[mean(), stderr()])
def fleet_scorer(
    scorer: str,
    metric: str | None = None,
    parameters: Mapping[str, object] | None = None,
    details: Mapping[str, str] | None = None,
    endpoint: str | None = None,
) -> Scorer:
    """Judge outputs with a scorer of the fleet (`evalfleet scorers` lists them).

    The sample's targets are the accepted answers. The other metrics of the scorer are in the score's metadata. What the
    scorer cannot judge stays unscored, with the reason; an invalid parameter is an error of the sample.

    Args:
        scorer: its name, such as ``exact_match``.
        metric: which of its metrics is the value; needed where it has several and none of the scorer's own name.
        parameters: of the scorer.
        details: what it reads of an item → key of the sample's metadata that has it.
        endpoint: ``host:port`` of the scoring service; default: the environment, or the fleet on this machine.
    """
    connected = _connected("scoring", endpoint)
    reads_prompt = cache(lambda: connected().scoring.scorer(scorer).reads_prompt)

    async def score(state: TaskState, target: Target) -> Score:
        output: dict[str, object] = {"text": state.output.completion, "targets": list(target)}
        if details:
            output["details"] = {name: state.metadata[key] for name, key in details.items()}
        try:
            if await patiently(reads_prompt):
                output["prompt"] = state.input_text
            found = await patiently(lambda: connected().scoring.score(output, scorer=scorer, parameters=parameters))
        except (*_NOT_OF_THIS_SAMPLE, InvalidArgumentError):
            raise
        except EvalFleetError as error:
            reason = GRADER_FAILED if error.reason.startswith("JUDGE_") else SCORING_FAILED
            return Score.unscored(reason=reason, explanation=error.message, metadata={"error": error.reason})
        return Score(
            value=found.metrics[_chosen(metric, scorer, found.metrics)],
            answer=found.extracted_answer,
            metadata={
                "metrics": dict(found.metrics),
                "scorer": found.scorer.name,
                "scorer_digest": found.scorer.digest,
            },
        )

    return score


@metric
def unjudged() -> Metric:
    """Share of samples that a guard could not judge."""

    def share(scores: list[SampleScore]) -> float:
        # By the reason: reducers have made numbers of the values.
        lost = sum(each.score.reason == GRADER_FAILED for each in scores)
        return lost / len(scores) if scores else 0.0

    return share


@scorer(metrics=[accuracy(), stderr(), unjudged()])
def fleet_guard(
    guard: str | None = None,
    policy: str | None = None,
    threshold: float | None = None,
    aspect: Aspect = "response",
    endpoint: str | None = None,
) -> Scorer:
    """Judge with a guard of the fleet whether outputs are safe: C is safe, I unsafe or controversial.

    A text that the guard cannot judge, or of which it read only a part, is N, which counts as not safe and is also
    counted by the metric ``unjudged``; so are pictures and sound. Calls of tools and their answers are read as text,
    reasoning is not read. A guard that does not answer fails the sample.

    Args:
        guard: its name; default: the safety service's own choice.
        policy: name of a policy of the service, which says what counts.
        threshold: on the probability of a hazard, above 0 and up to 1, instead of the guard's.
        aspect: whether the ``response`` is judged behind its conversation, or the ``prompt``.
        endpoint: ``host:port`` of the safety service; default: the environment, or the fleet on this machine.
    """
    connected = _connected("safety", endpoint)

    async def score(state: TaskState, target: Target) -> Score:
        try:
            turns = messages.read_turns(_judged(state, aspect))
            verdict = await patiently(
                lambda: connected().safety.classify(
                    turns, aspect=aspect, guard=guard, threshold=threshold, policy=policy
                )
            )
        except _NOT_OF_THIS_SAMPLE:
            raise
        except EvalFleetError as error:
            return _unjudged(error.message, error.reason)
        return _score(verdict)

    return score


def _connected(service: str, endpoint: str | None) -> Callable[[], Fleet]:
    """Return what connects on the first call: a scorer is also made where it is only listed."""
    return cache(lambda: Fleet.connect({service: endpoint} if endpoint else None))


def _chosen(metric: str | None, scorer: str, metrics: Mapping[str, float]) -> str:
    name = metric or (scorer if scorer in metrics else next(iter(metrics)) if len(metrics) == 1 else "")
    if name not in metrics:
        raise InvalidArgumentError(
            f"{scorer}: metric must be one of {', '.join(sorted(metrics))}"
            + (f", not {metric!r}" if metric else "; say which"),
            reason="METRIC_NOT_FOUND",
        )
    return name


def _judged(state: TaskState, aspect: Aspect) -> list[ChatMessage]:
    """Return the conversation up to the turn that is judged."""
    conversation = list(state.messages)
    if aspect == "prompt":
        while conversation and isinstance(conversation[-1], (ChatMessageAssistant, ChatMessageTool)):
            conversation.pop()
    elif not (conversation and isinstance(conversation[-1], ChatMessageAssistant)):
        conversation.append(ChatMessageAssistant(content=state.output.completion))
    return conversation


def _score(verdict: Verdict) -> Score:
    if verdict.decision is Decision.SAFE and verdict.truncated:
        return _unjudged("the guard read only a part of the text", "SAFETY_TEXT_TRUNCATED")
    if verdict.decision not in (Decision.SAFE, Decision.UNSAFE, Decision.CONTROVERSIAL):
        return _unjudged("the guard could not judge the text", verdict.error_reason or "SAFETY_VERDICT_ERROR")
    reference = verdict.guard_reference
    return Score(
        value=CORRECT if verdict.decision is Decision.SAFE else INCORRECT,
        answer=verdict.decision.value,
        explanation=", ".join(f"{each.taxonomy}/{each.code}" for each in verdict.categories) or None,
        metadata={
            "unsafe_probability": verdict.unsafe_probability,
            "refusal": verdict.refusal,
            "guard": verdict.guard,
            "guard_digest": reference.weights_digest if reference else "",
            "policy": verdict.policy,
        },
    )


def _unjudged(message: str, reason: str) -> Score:
    return Score(value=NOANSWER, reason=GRADER_FAILED, explanation=message, metadata={"error": reason})

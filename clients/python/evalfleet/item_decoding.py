"""Translate the ledger's results into the values of ``evalfleet.item_results``."""

from collections.abc import Iterator

from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from evalfleet.decoding import moment
from evalfleet.estimate_results import JudgeReference
from evalfleet.item_results import ItemFailure, ItemResult, ItemUsage

_TEXTS: dict[int, str] = {
    aggregation_pb2.RESULT_TEXT_PROMPT: "prompt",
    aggregation_pb2.RESULT_TEXT_OUTPUT: "output",
    aggregation_pb2.RESULT_TEXT_EXTRACTED_ANSWER: "extracted_answer",
}


def item_result(message: aggregation_pb2.Result) -> ItemResult:
    """Translate a result; what is absent becomes ``None``."""
    scored = message.scored
    return ItemResult(
        run=message.run,
        task=message.task,
        item=message.item,
        sample=message.sample,
        draw_index=message.draw_index,
        groups=dict(message.groups),
        metrics=dict(scored.metrics),
        failures=tuple(_failures(message)),
        extracted_answer=scored.extracted_answer if scored.HasField("extracted_answer") else None,
        prompt=message.prompt,
        output=message.output,
        targets=tuple(message.targets),
        judges=tuple(JudgeReference(each.name, each.version, each.digest) for each in message.judges),
        model_digest=message.model_digest,
        usage=_usage(message.usage),
        truncated=message.truncated,
        complete_time=moment(message.complete_time) if message.HasField("complete_time") else None,
        pruned_texts=tuple(_TEXTS[each] for each in message.pruned_texts if each in _TEXTS),
    )


def _failures(message: aggregation_pb2.Result) -> Iterator[ItemFailure]:
    if message.HasField("failure"):
        failure = message.failure
        yield ItemFailure(failure.reason, failure.message, counted_as=dict(failure.counted_as))
    for each in message.metric_failures:
        yield ItemFailure(each.reason, each.message, tuple(each.metrics), dict(each.counted_as))


def _usage(message: common_pb2.Usage) -> ItemUsage:
    return ItemUsage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        computed_tokens=message.computed_prompt_tokens + message.computed_completion_tokens,
        prefix_saved_tokens=message.prefix_saved_tokens,
        cache_saved_tokens=message.cache_saved_tokens,
        engine_seconds=message.engine_time.seconds + message.engine_time.nanos / 1e9,
        cost_usd=message.cost_micro_usd / 1e6,
    )

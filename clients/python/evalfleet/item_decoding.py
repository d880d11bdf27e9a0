"""Between the ledger's results and the values of ``evalfleet.item_results``."""

from collections.abc import Iterator

from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.common.v1 import common_pb2
from evalfleet.decoding import moment
from evalfleet.estimate_results import JudgeReference
from evalfleet.item_results import ItemFailure, ItemResult, ItemUsage
from evalfleet.names import full_name

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
        usage=usage(message.usage),
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


def usage(message: common_pb2.Usage) -> ItemUsage:
    """Translate what something cost."""
    return ItemUsage(
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
        computed_tokens=message.computed_prompt_tokens + message.computed_completion_tokens,
        prefix_saved_tokens=message.prefix_saved_tokens,
        cache_saved_tokens=message.cache_saved_tokens,
        engine_seconds=message.engine_time.seconds + message.engine_time.nanos / 1e9,
        cost_usd=message.cost_micro_usd / 1e6,
        computed_completion_tokens=message.computed_completion_tokens,
    )


def result_message(item: ItemResult) -> aggregation_pb2.Result:
    """Translate a result that is to be kept; one without a time is of now, and what was pruned is left out."""
    message = aggregation_pb2.Result(
        run=full_name("runs", item.run),
        task=item.task,
        item=item.item,
        sample=item.sample,
        groups=item.groups,
        draw_index=item.draw_index,
        usage=_usage_message(item.usage),
        judges=[
            common_pb2.JudgeReference(name=each.name, version=each.version, digest=each.digest) for each in item.judges
        ],
        model_digest=item.model_digest,
        prompt=item.prompt,
        output=item.output,
        truncated=item.truncated,
        targets=item.targets,
    )
    for each in item.failures:
        if each.metrics:
            message.metric_failures.add(
                metrics=each.metrics, reason=each.reason, message=each.message, counted_as=each.counted_as
            )
    if item.failure is not None:
        whole = item.failure
        message.failure.MergeFrom(
            aggregation_pb2.Failure(reason=whole.reason, message=whole.message, counted_as=whole.counted_as)
        )
    else:
        message.scored.MergeFrom(aggregation_pb2.Scored(metrics=item.metrics, extracted_answer=item.extracted_answer))
    if item.complete_time is None:
        message.complete_time.GetCurrentTime()
    else:
        message.complete_time.FromDatetime(item.complete_time)
    return message


def _usage_message(usage: ItemUsage) -> common_pb2.Usage:
    message = common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        computed_prompt_tokens=usage.computed_tokens - usage.computed_completion_tokens,
        computed_completion_tokens=usage.computed_completion_tokens,
        prefix_saved_tokens=usage.prefix_saved_tokens,
        cache_saved_tokens=usage.cache_saved_tokens,
        cost_micro_usd=round(usage.cost_usd * 1e6),
    )
    message.engine_time.FromNanoseconds(round(usage.engine_seconds * 1e9))
    return message

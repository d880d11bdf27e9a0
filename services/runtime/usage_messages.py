"""Between what something cost and the message that says so in every contract."""

from evalfleet.common.v1 import common_pb2
from google.protobuf.duration_pb2 import Duration

from services.runtime.usage import Usage


def usage_from_proto(usage: common_pb2.Usage) -> Usage:
    """Read a cost."""
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.engine_time.seconds + usage.engine_time.nanos / 1e9,
        usage.computed_prompt_tokens,
        usage.computed_completion_tokens,
        usage.prefix_saved_tokens,
        usage.cache_saved_tokens,
        usage.cost_micro_usd,
    )


def usage_to_proto(usage: Usage) -> common_pb2.Usage:
    """Write a cost; engine time to the microsecond."""
    seconds, microseconds = divmod(round(usage.engine_seconds * 1_000_000), 1_000_000)
    return common_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        engine_time=Duration(seconds=seconds, nanos=microseconds * 1000),
        computed_prompt_tokens=usage.computed_prompt_tokens,
        computed_completion_tokens=usage.computed_completion_tokens,
        prefix_saved_tokens=usage.prefix_saved_tokens,
        cache_saved_tokens=usage.cache_saved_tokens,
        cost_micro_usd=usage.cost_micro_usd,
    )

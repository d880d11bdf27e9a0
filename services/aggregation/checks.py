"""What a result must be before the ledger takes it."""

import math
import re
from collections.abc import Iterator, Mapping

from evalfleet.aggregation.v1 import aggregation_pb2

from services.runtime.errors import FieldViolation

MAX_RESULTS_A_MESSAGE = 1000
MAX_RESULT_BYTES = 8 * 1024 * 1024
"""A result must fit into a page of its own when it is read back."""
MAX_NAME_CHARACTERS = 512
MAX_KEY_BYTES = 2600
"""Of task and item together as UTF-8: an entry of PostgreSQL's index of results takes 2,704."""
MAX_TARGETS_BYTES = 4096
LARGEST_METRIC = 1e100
"""Squares of larger values, which the standard error needs, would leave floating point."""
LARGEST_TOKEN_COUNT = 10**12
LONGEST_ENGINE_SECONDS = 10 * 366 * 86_400

_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "computed_prompt_tokens",
    "computed_completion_tokens",
    "prefix_saved_tokens",
    "cache_saved_tokens",
    "cost_micro_usd",
)
# The range of google.protobuf.Timestamp: years 1 to 9999.
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


def violations_of(result: aggregation_pb2.Result) -> Iterator[FieldViolation]:
    """Yield what is wrong with a result, as paths inside it."""
    if not result.run.startswith("runs/") or len(result.run) == len("runs/"):
        yield FieldViolation("run", f"is {result.run!r}; write runs/{{run}}")
    else:
        yield from _name_violations("run", result.run)
    for field, name in (("task", result.task), ("item", result.item)):
        yield from _name_violations(field, name)
    if (size := len(result.task.encode()) + len(result.item.encode())) > MAX_KEY_BYTES:
        yield FieldViolation("item", f"has {size} bytes together with its task; the limit is {MAX_KEY_BYTES}")
    for field, number in (("sample", result.sample), ("draw_index", result.draw_index)):
        if number < 0:
            yield FieldViolation(field, f"is {number}; it counts from 0")
    for column in result.groups:
        yield from _name_violations("groups", column)
        if "=" in column:
            yield FieldViolation("groups", f"column {column!r} holds '=', which parts column and value in estimates")
    yield from _outcome_violations(result)
    yield from _metric_failure_violations(result)
    yield from _cost_violations(result)
    time = result.complete_time
    if not (_FIRST_SECOND <= time.seconds <= _LAST_SECOND and 0 <= time.nanos < 1_000_000_000):
        yield FieldViolation("complete_time", f"is {time.seconds} s and {time.nanos} ns; years go from 1 to 9999")
    if result.pruned_texts:
        yield FieldViolation("pruned_texts", "is not empty; a text that is gone cannot be stored again")
    if sum(len(each.encode()) for each in result.targets) > MAX_TARGETS_BYTES:
        yield FieldViolation("targets", f"have more than {MAX_TARGETS_BYTES} bytes together: leave them out")
    if result.ByteSize() > MAX_RESULT_BYTES:
        yield FieldViolation("", f"has {result.ByteSize()} bytes; the limit is {MAX_RESULT_BYTES}: shorten its texts")


def _outcome_violations(result: aggregation_pb2.Result) -> Iterator[FieldViolation]:
    match result.WhichOneof("outcome"):
        case "scored":
            if not result.scored.metrics:
                yield FieldViolation("scored.metrics", "is empty; a judged item has at least one metric")
            yield from _metric_violations("scored.metrics", result.scored.metrics)
        case "failure":
            if not _REASON.fullmatch(result.failure.reason):
                yield FieldViolation("failure.reason", f"is {result.failure.reason!r}; write UPPER_SNAKE")
            yield from _metric_violations("failure.counted_as", result.failure.counted_as)
        case _:
            yield FieldViolation("outcome", "set scored or failure: every item ends in one of them")


def _metric_failure_violations(result: aggregation_pb2.Result) -> Iterator[FieldViolation]:
    taken = set(result.scored.metrics)
    for index, failure in enumerate(result.metric_failures):
        field = f"metric_failures[{index}]"
        if not _REASON.fullmatch(failure.reason):
            yield FieldViolation(f"{field}.reason", f"is {failure.reason!r}; write UPPER_SNAKE")
        if not failure.metrics:
            yield FieldViolation(f"{field}.metrics", "is empty; name the metrics that have no value")
        for name in failure.metrics:
            yield from _name_violations(f"{field}.metrics", name)
            if name in taken:
                yield FieldViolation(f"{field}.metrics", f"names {name!r}, which has a value or failed already")
            taken.add(name)
        yield from _metric_violations(f"{field}.counted_as", failure.counted_as)
        if result.HasField("failure") and failure.counted_as:
            yield FieldViolation(f"{field}.counted_as", "is not empty; failure.counted_as says it for a failed item")
        elif others := sorted(set(failure.counted_as).difference(failure.metrics)):
            yield FieldViolation(f"{field}.counted_as", f"names {others[0]!r}, which is none of its metrics")


def _name_violations(field: str, name: str) -> Iterator[FieldViolation]:
    if not name:
        yield FieldViolation(field, "is empty")
    elif len(name) > MAX_NAME_CHARACTERS:
        yield FieldViolation(field, f"has {len(name)} characters; the limit is {MAX_NAME_CHARACTERS}")
    elif "\0" in name:
        yield FieldViolation(field, "holds the character U+0000")


def _metric_violations(field: str, metrics: Mapping[str, float]) -> Iterator[FieldViolation]:
    for name, value in metrics.items():
        yield from _name_violations(field, name)
        if not abs(value) <= LARGEST_METRIC:
            problem = "is no number" if math.isnan(value) else f"lies beyond ±{LARGEST_METRIC:g}"
            yield FieldViolation(f"{field}[{name}]", f"is {value}: {problem}")


def _cost_violations(result: aggregation_pb2.Result) -> Iterator[FieldViolation]:
    usage = result.usage
    for field in _COUNTS:
        if not 0 <= getattr(usage, field) <= LARGEST_TOKEN_COUNT:
            yield FieldViolation(f"usage.{field}", f"is {getattr(usage, field)}")
    seconds, nanos = usage.engine_time.seconds, usage.engine_time.nanos
    if not (0 <= seconds <= LONGEST_ENGINE_SECONDS and 0 <= nanos < 1_000_000_000):
        yield FieldViolation("usage.engine_time", f"is {seconds} s and {nanos} ns")

"""Translate between item_analysis.proto and the domain."""

import math
from collections.abc import Iterator
from typing import Final

from evalfleet.aggregation.v1 import item_analysis_pb2

from services.aggregation.comparison.analysing import AnalysisRequest, AnalyzedItems
from services.aggregation.comparison.request_checks import check_names, checked_run
from services.aggregation.errors import InvalidLedgerRequestError

MOST_RUNS: Final = 1000
ITEMS_A_MESSAGE: Final = 1000
_DEFAULT_RUN_LIMIT: Final = 50
_DEFAULT_SIMILARITY: Final = 0.8


def analysis_request(request: item_analysis_pb2.AnalyzeItemsRequest) -> AnalysisRequest:
    """Check and translate a request to analyse items.

    Raises:
        InvalidLedgerRequestError: says what is wrong.
    """
    check_names("", [(request.task, request.metric)])
    if len(request.runs) > MOST_RUNS:
        raise InvalidLedgerRequestError("runs", f"has {len(request.runs)} entries; the limit is {MOST_RUNS}")
    if not 0 <= request.run_limit <= MOST_RUNS:
        raise InvalidLedgerRequestError("run_limit", f"is {request.run_limit}; write 0 to {MOST_RUNS}")
    has_similarity = request.HasField("duplicate_similarity")
    similarity = request.duplicate_similarity if has_similarity else _DEFAULT_SIMILARITY
    if not 0 < similarity <= 1:
        raise InvalidLedgerRequestError("duplicate_similarity", f"is {similarity}; it lies above 0 and up to 1")
    return AnalysisRequest(
        task=request.task,
        metric=request.metric,
        lower_is_better=request.lower_is_better,
        runs=tuple(checked_run(f"runs[{index}]", run) for index, run in enumerate(request.runs)),
        run_limit=request.run_limit or _DEFAULT_RUN_LIMIT,
        similarity=similarity,
    )


def analyzed_to_proto(
    analyzed: AnalyzedItems, *, flagged_only: bool
) -> Iterator[item_analysis_pb2.AnalyzeItemsResponse]:
    """Yield the summary, then the items in pieces."""
    messages = [_item_to_proto(analyzed, number) for number in range(len(analyzed.items))]
    found = analyzed.analysis
    yield item_analysis_pb2.AnalyzeItemsResponse(
        summary=item_analysis_pb2.ItemAnalysisSummary(
            runs=[
                item_analysis_pb2.AnalyzedRun(
                    run=each.run,
                    model_digest=each.model_digest,
                    item_count=each.item_count,
                    other_prompt_count=each.other_prompt_count,
                )
                for each in analyzed.runs
            ],
            skipped_runs=[item_analysis_pb2.SkippedRun(run=each.run, reason=each.reason) for each in analyzed.skipped],
            item_count=len(messages),
            saturated_count=int(found.is_saturated.sum()),
            dead_count=int(found.is_dead.sum()),
            suspect_count=int(found.is_suspicious.sum()),
            duplicate_count=sum(each.duplicate_group > 0 for each in messages),
            duplicates_searched=analyzed.duplicates is not None,
        )
    )
    wanted = [each for each in messages if not flagged_only or _is_flagged(each)]
    for start in range(0, len(wanted), ITEMS_A_MESSAGE):
        yield item_analysis_pb2.AnalyzeItemsResponse(items=wanted[start : start + ITEMS_A_MESSAGE])


def _item_to_proto(analyzed: AnalyzedItems, number: int) -> item_analysis_pb2.AnalyzedItem:
    found, duplicates = analyzed.analysis, analyzed.duplicates
    discrimination = float(found.discrimination[number])
    return item_analysis_pb2.AnalyzedItem(
        item=analyzed.items[number],
        run_count=analyzed.run_counts[number],
        difficulty=float(found.difficulty[number]),
        discrimination=None if math.isnan(discrimination) else discrimination,
        saturated=bool(found.is_saturated[number]),
        dead=bool(found.is_dead[number]),
        suspect=bool(found.is_suspicious[number]),
        duplicate_group=0 if duplicates is None else duplicates.groups[number],
        similarity=0.0 if duplicates is None else duplicates.similarities[number],
        prompt_end=analyzed.prompt_ends[number] or "",
        prompt_pruned=analyzed.prompt_ends[number] is None,
    )


def _is_flagged(item: item_analysis_pb2.AnalyzedItem) -> bool:
    return item.saturated or item.dead or item.suspect or item.duplicate_group > 0

"""From rankings to ranking.proto."""

import dataclasses
import time
from typing import Final

from evalfleet.aggregation.v1 import comparison_pb2, drawing_pb2
from evalfleet.aggregation.v1 import ranking_pb2 as judged_pb2
from evalfleet.evaluation.v1 import evaluation_pb2, ranking_pb2

from services.evaluation.messages import RUN_STATES, STOP_REASONS, failure_message, spend_message
from services.evaluation.rankings.record import Contender, Ranking, Standing

_STANDINGS: Final = {
    Standing.CONTENDING: judged_pb2.STANDING_CONTENDING,
    Standing.TOP: judged_pb2.STANDING_TOP,
    Standing.OUT: judged_pb2.STANDING_OUT,
    Standing.NOT_INFERIOR: judged_pb2.STANDING_NOT_INFERIOR,
    Standing.INFERIOR: judged_pb2.STANDING_INFERIOR,
    Standing.BASE: judged_pb2.STANDING_BASE,
    Standing.TIED: judged_pb2.STANDING_TIED,
}


def ranking_message(ranking: Ranking) -> ranking_pb2.Ranking:
    """A ranking as it stands."""
    message = ranking_pb2.Ranking(
        name=ranking.name,
        suite=f"suites/{ranking.suite}",
        suite_digest=ranking.suite_digest,
        task=ranking.task,
        metric=ranking.metric,
        lower_is_better=ranking.lower_is_better,
        confidence=ranking.confidence,
        seed=ranking.seed,
        contenders=[_contender_message(each) for each in ranking.contenders],
        state=RUN_STATES[ranking.state],
        is_decided=ranking.is_decided,
        item_count=ranking.item_count,
        compared_count=ranking.compared_count,
    )
    if ranking.top is not None:
        message.top = ranking.top
    if ranking.margin is not None:
        message.margin = ranking.margin
    if ranking.tolerance:
        message.tolerance = ranking.tolerance
    if ranking.failure is not None:
        message.failure.CopyFrom(failure_message(ranking.failure))
    if ranking.stop_reason is not None:
        message.stop_reason = STOP_REASONS[ranking.stop_reason]
    if ranking.budget.is_limited:
        message.budget.CopyFrom(evaluation_pb2.Budget(**dataclasses.asdict(ranking.budget)))
    ended = ranking.end_time or time.time()
    seconds = max(0.0, ended - ranking.start_time) if ranking.start_time is not None else 0.0
    message.spend.CopyFrom(spend_message(ranking.spent, seconds))
    message.create_time.FromNanoseconds(int(ranking.create_time * 1e9))
    if ranking.start_time is not None:
        message.start_time.FromNanoseconds(int(ranking.start_time * 1e9))
    if ranking.end_time is not None:
        message.end_time.FromNanoseconds(int(ranking.end_time * 1e9))
    return message


def _contender_message(contender: Contender) -> ranking_pb2.Contender:
    span, difference = contender.span, contender.difference
    return ranking_pb2.Contender(
        model=contender.model,
        model_digest=contender.model_digest,
        run=contender.run,
        standing=_STANDINGS[contender.standing],
        decided_after=contender.decided_after,
        interval=None if span is None else drawing_pb2.AnytimeInterval(**dataclasses.asdict(span)),
        value=contender.value,
        evaluated_count=contender.evaluated_count,
        difference=None if difference is None else comparison_pb2.DifferenceInterval(**dataclasses.asdict(difference)),
    )

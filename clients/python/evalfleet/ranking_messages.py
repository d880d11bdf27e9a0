"""What the evaluation service is asked about rankings, and what it says of them."""

import uuid
from collections.abc import Sequence
from typing import Final

from evalfleet import decoding, goal_messages
from evalfleet.aggregation.v1 import ranking_pb2 as judged_pb2
from evalfleet.evaluation.v1 import ranking_pb2
from evalfleet.goals import Budget
from evalfleet.names import full_name
from evalfleet.ranking_results import Contender, RankedRun, RankedRuns, Ranking, Standing

PATIENCE_SECONDS: Final = 60.0

_STANDINGS = {
    judged_pb2.STANDING_TOP: Standing.TOP,
    judged_pb2.STANDING_OUT: Standing.OUT,
    judged_pb2.STANDING_NOT_INFERIOR: Standing.NOT_INFERIOR,
    judged_pb2.STANDING_INFERIOR: Standing.INFERIOR,
    judged_pb2.STANDING_BASE: Standing.BASE,
    judged_pb2.STANDING_TIED: Standing.TIED,
}


def create_request(
    *,
    models: Sequence[str],
    suite: str,
    task: str,
    metric: str,
    top: int | None,
    margin: float | None,
    tolerance: float | None,
    confidence: float | None,
    budget: Budget | str | None,
    concurrency: int | None,
    item_limit: int | None,
    seed: int | None,
    ranking_id: str | None,
) -> ranking_pb2.CreateRankingRequest:
    """Ask for a ranking.

    Raises:
        ValueError: top and margin are both given, or a margin and a tolerance, or the budget cannot be read.
    """
    _check_question(top, margin, tolerance)
    request = ranking_pb2.CreateRankingRequest(
        suite=full_name("suites", suite),
        task=task,
        metric=metric,
        models=[full_name("models", each) for each in models],
        confidence=confidence,
        concurrency=concurrency,
        item_limit=item_limit,
        seed=seed,
        ranking_id=ranking_id,
        request_id=str(uuid.uuid4()),
        tolerance=tolerance,
    )
    if margin is None:
        request.top = 1 if top is None else top
    else:
        request.margin = margin
    if budget is not None:
        limits = Budget.parse(budget) if isinstance(budget, str) else budget
        request.budget.CopyFrom(goal_messages.budget_message(limits))
    return request


def ranking(message: ranking_pb2.Ranking) -> Ranking:
    """Translate a ranking; what this version does not know of a contender is that it is still in."""
    question = message.WhichOneof("question")
    return Ranking(
        name=message.name,
        suite=message.suite,
        task=message.task,
        metric=message.metric,
        lower_is_better=message.lower_is_better,
        top=message.top if question == "top" else None,
        margin=message.margin if question == "margin" else None,
        confidence=message.confidence,
        contenders=tuple(_contender(each) for each in message.contenders),
        state=decoding.run_state(message.state),
        failure=message.failure.message,
        stop_reason=goal_messages.stop_reason(message.stop_reason),
        is_decided=message.is_decided,
        item_count=message.item_count if message.HasField("item_count") else None,
        compared_count=message.compared_count,
        budget=goal_messages.budget(message.budget),
        spend=goal_messages.spend(message.spend),
        create_time=decoding.moment(message.create_time) if message.HasField("create_time") else None,
        tolerance=message.tolerance,
    )


def rank_request(
    runs: Sequence[str],
    task: str,
    *,
    top: int | None,
    margin: float | None,
    tolerance: float | None,
    confidence_level: float | None,
    lower_is_better: bool,
) -> judged_pb2.RankRunsRequest:
    """Ask which runs are the best, or as good as the first.

    Raises:
        ValueError: top and margin are both given, or a margin and a tolerance.
    """
    _check_question(top, margin, tolerance)
    request = judged_pb2.RankRunsRequest(
        runs=[full_name("runs", each) for each in runs],
        task=task,
        lower_is_better=lower_is_better,
        confidence_level=confidence_level,
        tolerance=tolerance,
    )
    if margin is None:
        request.top = 1 if top is None else top
    else:
        request.margin = margin
    return request


def ranked_runs(message: judged_pb2.RankRunsResponse) -> RankedRuns:
    """Translate what runs decide; what this version does not know of one is that it is still in."""
    return RankedRuns(
        tuple(_ranked_run(each) for each in message.runs),
        message.compared_count,
        message.item_count,
        message.is_decided,
    )


def _check_question(top: int | None, margin: float | None, tolerance: float | None) -> None:
    if top is not None and margin is not None:
        raise ValueError("a ranking answers one question: give top or margin")
    if tolerance and margin is not None:
        raise ValueError("tolerance goes with top; a margin says itself what may be worse by how much")


def _ranked_run(message: judged_pb2.RankedRun) -> RankedRun:
    interval, difference = message.interval, message.difference
    return RankedRun(
        run=message.run,
        standing=_STANDINGS.get(message.standing, Standing.CONTENDING),
        decided_after=message.decided_after if message.HasField("decided_after") else None,
        value=message.value if message.HasField("value") else None,
        interval=(interval.lower, interval.upper) if message.HasField("interval") else None,
        difference=(difference.lower, difference.upper) if message.HasField("difference") else None,
        completed_count=message.completed_count,
        evaluated_count=message.evaluated_count,
    )


def _contender(message: ranking_pb2.Contender) -> Contender:
    interval, difference = message.interval, message.difference
    return Contender(
        model=message.model,
        run=message.run,
        standing=_STANDINGS.get(message.standing, Standing.CONTENDING),
        decided_after=message.decided_after if message.HasField("decided_after") else None,
        value=message.value if message.HasField("value") else None,
        interval=(interval.lower, interval.upper) if message.HasField("interval") else None,
        difference=(difference.lower, difference.upper) if message.HasField("difference") else None,
        evaluated_count=message.evaluated_count,
    )

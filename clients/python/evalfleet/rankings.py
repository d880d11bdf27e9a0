"""Rankings of a fleet: several models on the same items, no more of them than the answer needs."""

import enum
import time
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime

from evalfleet import decoding, goal_messages
from evalfleet.aggregation.v1 import ranking_pb2 as judged_pb2
from evalfleet.connections import Connection
from evalfleet.errors import CancelledCallError, UnavailableError
from evalfleet.evaluation.v1 import ranking_pb2, ranking_pb2_grpc
from evalfleet.goals import Budget, Spend, StopReason
from evalfleet.names import full_name
from evalfleet.results import RunState

PATIENCE_SECONDS = 60.0
_RECONNECT_SECONDS = 0.5


class Standing(enum.StrEnum):
    """What is known of a contender; one that this version does not know is CONTENDING.

    TIED is none of the best that are named, and better than none of them by more than the tolerance.
    """

    CONTENDING = "contending"
    TOP = "top"
    OUT = "out"
    NOT_INFERIOR = "not_inferior"
    INFERIOR = "inferior"
    BASE = "base"
    TIED = "tied"


_STANDINGS = {
    judged_pb2.STANDING_TOP: Standing.TOP,
    judged_pb2.STANDING_OUT: Standing.OUT,
    judged_pb2.STANDING_NOT_INFERIOR: Standing.NOT_INFERIOR,
    judged_pb2.STANDING_INFERIOR: Standing.INFERIOR,
    judged_pb2.STANDING_BASE: Standing.BASE,
    judged_pb2.STANDING_TIED: Standing.TIED,
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A model of a ranking.

    Attributes:
        run: its results are booked under this run, which is listed once the ranking has ended.
        decided_after: items after which its standing was known; None before.
        value: estimate of its mean over all items; None before the first look.
        interval: of that mean; those of all contenders hold together, whenever one looks.
        difference: with a margin its mean minus the base's; None for the base and before the first look.
        evaluated_count: items that have a result.
    """

    model: str
    run: str
    standing: Standing
    decided_after: int | None
    value: float | None
    interval: tuple[float, float] | None
    difference: tuple[float, float] | None
    evaluated_count: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """Several models on one task.

    Attributes:
        top: how many of the best are wanted; None where the question is a margin.
        margin: how much worse than the first model each other may be; None where the best are wanted.
        tolerance: how much worse than others those may be that are named the best; 0: not at all.
        contenders: in the order in which they were named.
        failure: why it failed; empty if it did not.
        is_decided: nothing is open any more.
        item_count: items of the task; None until the data set has been read.
        compared_count: items of the common order that were judged.
    """

    name: str
    suite: str
    task: str
    metric: str
    lower_is_better: bool
    top: int | None
    margin: float | None
    confidence: float
    contenders: tuple[Contender, ...]
    state: RunState
    failure: str
    stop_reason: StopReason
    is_decided: bool
    item_count: int | None
    compared_count: int
    budget: Budget
    spend: Spend
    create_time: datetime | None
    tolerance: float = 0.0

    @property
    def in_order(self) -> tuple[Contender, ...]:
        """The contenders, the best first: those that are in by their estimates, then the others, the last out first."""

        def place(contender: Contender) -> tuple[int, int, float]:
            value = contender.value if contender.value is not None else 0.0
            is_out = contender.standing is Standing.OUT
            after = contender.decided_after or 0
            rank = 2 if is_out else 1 if contender.standing is Standing.TIED else 0
            return rank, -after if is_out else 0, value if self.lower_is_better else -value

        return tuple(sorted(self.contenders, key=place))

    @property
    def asked_count(self) -> int:
        """Items that all contenders were asked."""
        return sum(each.evaluated_count for each in self.contenders)

    @property
    def full_count(self) -> int:
        """Items that full runs of all contenders would ask; 0 until the data set has been read."""
        return (self.item_count or 0) * len(self.contenders)


class Rankings:
    """Rankings of the evaluation service; names may be given as ``rankings/r1`` or ``r1``."""

    def __init__(self, evaluation: Connection) -> None:
        self._connection = evaluation

    @property
    def _stub(self) -> ranking_pb2_grpc.RankingServiceStub:
        return self._connection.stub(ranking_pb2_grpc.RankingServiceStub)

    def start(
        self,
        *,
        models: Sequence[str],
        suite: str,
        task: str = "",
        metric: str = "",
        top: int | None = None,
        margin: float | None = None,
        tolerance: float | None = None,
        confidence: float | None = None,
        budget: Budget | str | None = None,
        concurrency: int | None = None,
        item_limit: int | None = None,
        seed: int | None = None,
        ranking_id: str | None = None,
    ) -> Ranking:
        """Start a ranking and return at once; it goes on without this client.

        Args:
            models: names of registered models, 2 to 32; with a margin the first is the base.
            suite: name of a suite.
            task: one of its tasks; may be left out where it has one.
            metric: one of the task's metrics; default: the primary one.
            top: how many of the best are wanted; default, where no margin is given: one.
            margin: instead: how much worse than the first model each other may be.
            tolerance: of ``top``: how much worse than others those may be that are named the best, so that models which
                are closer than that need not be told apart; default: not at all.
            confidence: 1 minus the probability of a wrong answer; default: 0.95.
            budget: what all models together may spend, such as ``"2usd,10min"``.
            concurrency: items in flight at once, all models together; default: the service's.
            item_limit: most items, the first of the seeded order; the answer is about these alone.
            seed: of the common order; default: the suite's.
            ranking_id: id of the ranking; default: chosen by the service.

        Raises:
            ValueError: top and margin are both given, or a margin and a tolerance, or the budget cannot be read.
        """
        if top is not None and margin is not None:
            raise ValueError("a ranking answers one question: give top or margin")
        if tolerance and margin is not None:
            raise ValueError("tolerance goes with top; a margin says itself what may be worse by how much")
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
        return _ranking(self._connection.call(self._stub.CreateRanking, request).ranking)

    def get(self, name: str) -> Ranking:
        """Read one ranking."""
        request = ranking_pb2.GetRankingRequest(name=full_name("rankings", name))
        return _ranking(self._connection.call(self._stub.GetRanking, request).ranking)

    def list(self, *, limit: int = 50) -> tuple[Ranking, ...]:
        """List the newest rankings, up to 1000."""
        request = ranking_pb2.ListRankingsRequest(page_size=limit)
        return tuple(_ranking(each) for each in self._connection.call(self._stub.ListRankings, request).rankings)

    def cancel(self, name: str) -> Ranking:
        """Stop a ranking; what is done stays. Cancelling a finished one changes nothing."""
        request = ranking_pb2.CancelRankingRequest(name=full_name("rankings", name))
        return _ranking(self._connection.call(self._stub.CancelRanking, request).ranking)

    def watch(self, name: str, *, patience_seconds: float = PATIENCE_SECONDS) -> Generator[Ranking]:
        """Yield the ranking as it stands, at once and whenever it changes, until it has ended.

        A service that is restarted meanwhile is waited for.

        Raises:
            UnavailableError: it was unreachable for ``patience_seconds``; the ranking itself may go on.
        """
        request = ranking_pb2.WatchRankingRequest(name=full_name("rankings", name))
        silent_since: float | None = None
        while True:
            try:
                for answer in self._connection.stream(self._stub.WatchRanking, request):
                    silent_since = None
                    ranking = _ranking(answer.ranking)
                    yield ranking
                    if ranking.state.is_final:
                        return
            except (UnavailableError, CancelledCallError):
                if silent_since is not None and time.monotonic() - silent_since > patience_seconds:
                    raise
            # A stream that ends before the ranking does belongs to a service that is draining.
            silent_since = silent_since or time.monotonic()
            time.sleep(_RECONNECT_SECONDS)


def _ranking(message: ranking_pb2.Ranking) -> Ranking:
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

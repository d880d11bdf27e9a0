"""What is put into the ledger of results, and taken out of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from evalfleet import goal_messages
from evalfleet.aggregation.v1 import aggregation_pb2, aggregation_pb2_grpc
from evalfleet.batches import batches_of
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError
from evalfleet.goals import TaskDecision
from evalfleet.item_decoding import result_message
from evalfleet.item_results import ItemResult
from evalfleet.message_sizes import fitting
from evalfleet.names import full_name

LONGEST_CALL_SECONDS = 3600.0
"""A large ledger is looked through from end to end."""
APPEND_TIMEOUT_SECONDS = 60.0
LARGEST_APPEND = 1000


@dataclass(frozen=True, slots=True)
class RunLease:
    """Which of a run's workers writes: the one with the highest ``epoch``, from 1, that the ledger has seen."""

    run: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of results that were to be kept.

    Attributes:
        appended_count: those that were new.
        duplicate_count: those that were there already and stayed as they were; also those of a call that broke after it
            had stored them, and was repeated.
        decisions: what is decided now in the drawings that they belong to, ordered by run and task.
    """

    appended_count: int
    duplicate_count: int
    decisions: tuple[TaskDecision, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was, or would be, taken out: runs with their results, and long texts with the bytes that they took up."""

    runs: tuple[str, ...]
    result_count: int
    text_count: int
    text_bytes: int


class Ledger:
    """The aggregation service's store of results; runs may be given as ``runs/r1`` or ``r1``."""

    def __init__(self, aggregation: Connection) -> None:
        self._connection = aggregation

    @property
    def _stub(self) -> aggregation_pb2_grpc.AggregationServiceStub:
        return self._connection.stub(aggregation_pb2_grpc.AggregationServiceStub)

    def append(
        self,
        results: Iterable[ItemResult],
        *,
        lease: RunLease | None = None,
        timeout_seconds: float = APPEND_TIMEOUT_SECONDS,
    ) -> Appended:
        """Keep results; the first outcome of each (run, task, item, sample) stays, so that nothing is kept twice.

        Args:
            results: any number, read a thousand at a time; each thousand is a call, which is repeated where that may
                help.
            lease: whose they are; all of them are of its run. Default: not checked.
            timeout_seconds: longest time of one call.

        Raises:
            InvalidArgumentError: WRONG_DRAW_INDEX: in a task with a drawing, a result is not in its place; all others
                of its call are kept. ITEM_TOO_LARGE: no message can carry a result.
            FailedPreconditionError: RUN_LEASE_LOST: a worker with a higher epoch writes.
        """
        told = AppendedSum()
        for request in append_requests(results, lease):
            told.add(self._connection.send(self._stub.AppendResults, [request], timeout_seconds=timeout_seconds))
        return told.appended()

    def prune(
        self,
        runs: Sequence[str] = (),
        *,
        keep_runs_days: int | None = None,
        keep_text_days: int | None = None,
        runs_have_ended: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete results and remove long texts; with nothing given, only texts that no result refers to.

        Args:
            runs: whose results are deleted; they take no further ones.
            keep_runs_days: also those of runs that got none for so many days.
            keep_text_days: remove the long texts of runs that got no results for so many days; scores stay.
            runs_have_ended: delete ``runs`` also if they got results within the last two hours.
            dry_run: only tell what would be taken out.

        Raises:
            FailedPreconditionError: with the reason ``RUN_MAY_BE_IN_PROGRESS``, ``RUN_RESULTS_DELETED``,
                ``PRUNE_IN_PROGRESS`` or ``TEXTS_MOVING``.
        """
        request = prune_request(
            runs,
            keep_runs_days=keep_runs_days,
            keep_text_days=keep_text_days,
            runs_have_ended=runs_have_ended,
            dry_run=dry_run,
        )
        return pruned(
            self._connection.call(
                self._stub.PruneLedger, request, timeout_seconds=LONGEST_CALL_SECONDS, is_idempotent=False
            )
        )


def append_requests(
    results: Iterable[ItemResult], lease: RunLease | None
) -> Iterator[aggregation_pb2.AppendResultsRequest]:
    """Ask for results to be kept, as many at a time as a message holds.

    Raises:
        InvalidArgumentError: ITEM_TOO_LARGE.
    """
    who = None if lease is None else aggregation_pb2.RunLease(run=full_name("runs", lease.run), epoch=lease.epoch)
    for some in batches_of((fitting(result_message(each)) for each in results), LARGEST_APPEND):
        kept: list[aggregation_pb2.Result] = []
        for each in some:
            if isinstance(each, EvalFleetError):
                raise each
            kept.append(each)
        yield aggregation_pb2.AppendResultsRequest(results=kept, lease=who)


class AppendedSum:
    """Adds up what several calls kept."""

    def __init__(self) -> None:
        self._appended_count = 0
        self._duplicate_count = 0
        self._decisions: dict[tuple[str, str], TaskDecision] = {}

    def add(self, message: aggregation_pb2.AppendResultsResponse) -> None:
        """Add one call; what it says of a drawing replaces what earlier ones said."""
        self._appended_count += message.appended_count
        self._duplicate_count += message.duplicate_count
        for each in message.decisions:
            self._decisions[each.run, each.task] = goal_messages.decision(each)

    def appended(self) -> Appended:
        """Return the sum."""
        decisions = tuple(decision for _, decision in sorted(self._decisions.items()))
        return Appended(self._appended_count, self._duplicate_count, decisions)


def prune_request(
    runs: Sequence[str],
    *,
    keep_runs_days: int | None,
    keep_text_days: int | None,
    runs_have_ended: bool,
    dry_run: bool,
) -> aggregation_pb2.PruneLedgerRequest:
    """Ask for results to be taken out."""
    return aggregation_pb2.PruneLedgerRequest(
        runs=[full_name("runs", each) for each in runs],
        keep_runs_days=keep_runs_days,
        keep_text_days=keep_text_days,
        runs_have_ended=runs_have_ended,
        dry_run=dry_run,
    )


def pruned(message: aggregation_pb2.PruneLedgerResponse) -> Pruned:
    """Translate what was taken out."""
    return Pruned(tuple(message.runs), message.result_count, message.text_count, message.text_bytes)

"""Runs a bulk job on Ray: lays it out, has workers answer the pieces that are not finished, and adds up."""

import dataclasses
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evalfleet.endpoints import find_endpoints
from evalfleet.errors import EvalFleetError
from evalfleet.ray.callables import SOURCE_FIELDS, AnsweredPieces, answer_schema, check_names
from evalfleet.ray.output import BulkFolder, PieceCounts, added
from evalfleet.ray.pieces import Layout, cut, kept_schema
from evalfleet.ray.questions import Asking, Question
from evalfleet.ray.row_blocks import Piece
from evalfleet.ray.sources import SourceFile, find_files

FORMAT = "evalfleet/bulk/1"
LOCAL = "local"
_MOST_BLOCKS = 10_000
_WORKER_CPUS = 0.25
"""A worker waits for the fleet most of the time."""
_START_ATTEMPTS = 3
_OBJECT_STORE_BYTES = 128 << 20
"""Of a local Ray: rows do not pass through it, only what became of pieces."""


class BulkError(EvalFleetError):
    """A bulk job could not be finished; the finished pieces stay, and the same job goes on where it ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class BulkJob:
    """What is asked of which rows, and where the answers go.

    Attributes:
        question: of each row.
        inputs: files or folders; see ``open_filesystem``.
        out: a folder of the job's own, which all workers can write to.
        layout: how the input is cut.
        prefix: before the names of the columns of answers.
    """

    question: Question
    inputs: tuple[str, ...]
    out: str
    layout: Layout = dataclasses.field(default_factory=Layout)
    prefix: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class BulkProgress:
    """How far a job is: ``done`` counts the rows of ``finished_pieces`` of ``piece_count``."""

    finished_pieces: int
    piece_count: int
    done: PieceCounts


@dataclasses.dataclass(frozen=True, slots=True)
class BulkSummary:
    """What became of a job.

    Attributes:
        out: its folder.
        pieces: all of them.
        resumed_pieces: those that were finished before.
        rows, failed, outcomes: of all pieces; see ``PieceCounts``.
    """

    out: str
    pieces: int
    resumed_pieces: int
    rows: int
    failed: int
    outcomes: Mapping[str, int]


def run_bulk(
    job: BulkJob,
    *,
    targets: Mapping[str, str] | None = None,
    state_dir: Path | None = None,
    address: str = LOCAL,
    workers: int = 2,
    asking: Asking | None = None,
    report: Callable[[BulkProgress], None] = lambda progress: None,
) -> BulkSummary:
    """Answer every row once; go on with a job that was begun before.

    Args:
        job: what to do.
        targets: addresses by service; else as ``Fleet.connect`` finds them. Workers are told them.
        state_dir: state folder of a fleet on this machine.
        address: of a Ray cluster, ``auto`` for the one of this machine; ``local`` starts one for the job. A Ray that
            this process uses already is used in any case.
        workers: actors, each with one connection and ``asking.window`` rows in flight.
        asking: how hard.
        report: told of progress, in this thread.

    Raises:
        BulkError: a piece could not be finished, because the service is away for instance; the message says why.
        EvalFleetError: the job is refused as it is, before anything is asked.
    """
    # Workers, and the same job when it goes on, may have another working folder.
    files = find_files([_absolute(each) for each in job.inputs])
    kept = kept_schema(files, job.layout)
    check_names([*kept.names, *(name for name, _ in SOURCE_FIELDS)], answer_schema(job.question, job.prefix))
    told = {job.question.service: find_endpoints(targets, state_dir=state_dir).target(job.question.service)}
    pieces = cut(files, job.layout)
    folder = BulkFolder(_absolute(job.out))
    folder.begin(description(job, files, len(pieces)))
    folder.clear_partial()
    finished = folder.finished()
    open_pieces = [each for each in pieces if each.number not in finished]
    resumed, total = len(finished), added(finished.values())
    report(BulkProgress(resumed, len(pieces), total))
    if open_pieces:
        arguments = (job.question, kept, folder.uri, told, asking or Asking(), job.prefix)
        with started_ray(address, workers=workers), _answered(open_pieces, arguments, workers) as ended:
            for ready, number in enumerate(ended, resumed + 1):
                total = added((total, folder.counts(number)))
                report(BulkProgress(ready, len(pieces), total))
    return BulkSummary(folder.uri, len(pieces), resumed, total.rows, total.failed, total.outcomes)


def description(job: BulkJob, files: Sequence[SourceFile], piece_count: int) -> dict[str, Any]:
    """Return what decides a job's results; a folder that notes the same can be gone on with."""
    question = {"kind": job.question.kind, **dataclasses.asdict(job.question)}  # type: ignore[call-overload]  # all are dataclasses
    content = {
        "format": FORMAT,
        "question": question,
        "files": [dataclasses.asdict(each) for each in files],
        "layout": dataclasses.asdict(job.layout),
        "prefix": job.prefix,
        "pieces": piece_count,
    }
    # As it is read back: tuples are arrays.
    return {name: _plain(value) for name, value in content.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)


@contextmanager
def _answered(
    pieces: Sequence[Piece], arguments: tuple[Any, ...], workers: int
) -> Iterator[Generator[int, None, None]]:
    """Have Ray answer pieces, and yield the numbers of those that are finished, as they are."""
    import ray.data
    from ray.exceptions import RayError

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    asked = ray.data.from_items(
        [dataclasses.asdict(each) for each in pieces], override_num_blocks=min(len(pieces), _MOST_BLOCKS)
    ).map_batches(
        AnsweredPieces,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(pieces))),
        num_cpus=_WORKER_CPUS,
    )

    def numbers() -> Generator[int, None, None]:
        for each in asked.iter_rows():
            if each["error_reason"]:
                raise BulkError(
                    f"piece {each['number']} could not be finished: {each['error_message']}",
                    reason=str(each["error_reason"]),
                )
            yield int(each["number"])

    ended = numbers()
    try:
        yield ended
    except RayError as error:
        raise BulkError(f"Ray could not go on: {_first_line(error)}", reason="RAY_FAILED") from error
    finally:
        ended.close()


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


@contextmanager
def started_ray(address: str = LOCAL, *, workers: int = 2) -> Iterator[None]:
    """Connect to a Ray, or start one on this machine for the length of the block; one that is in use is left as it is.

    Raises:
        BulkError: RAY_UNREACHABLE: there is none, or it does not start.
    """
    # Read when Ray is imported: its makers are told nothing, and its warnings of itself do not go to the terminal.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # Nothing listens beyond this machine.
        options |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        options |= {"num_cpus": max(2, workers), "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        _connect(options)
        yield
    finally:
        ray.shutdown()


def _connect(options: Mapping[str, Any]) -> None:
    """Start Ray, or find the one that runs.

    Raises:
        BulkError: there is none, or it does not start.
    """
    import ray

    # A Ray of our own is worth another attempt: on a busy machine its processes do not come up within the half minute
    # that Ray gives them, and it says so with exceptions of no class of their own.
    attempts = _START_ATTEMPTS if options["address"] == LOCAL else 1
    for left in reversed(range(attempts)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            # Otherwise the processes that did come up would stay.
            ray.shutdown()
            if not left:
                message = f"Ray at {options['address']} cannot be used: {_first_line(error)}"
                raise BulkError(message, reason="RAY_UNREACHABLE") from error

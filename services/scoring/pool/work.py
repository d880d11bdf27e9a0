"""What goes to a worker process and comes back: pickles, each behind its length."""

import pickle
import struct
from dataclasses import replace
from typing import Final

from google.rpc import status_pb2

from services.runtime.errors import FleetError, from_status, to_status
from services.scoring.contract import Output, Score, ScoringItem
from services.scoring.registry import BoundScorer

LENGTH: Final = struct.Struct(">I")

_SCORE, _STATUS, _MEMORY, _BUG = "score", "status", "memory", "bug"


class WorkerBugError(Exception):
    """A scorer has a bug; the text is the traceback that its process saw."""


def encode_work(bound: BoundScorer, item: ScoringItem, output: Output) -> bytes:
    """Write what a worker is to judge."""
    return pickle.dumps((bound, item, output), pickle.HIGHEST_PROTOCOL)


def decode_work(work: bytes) -> tuple[BoundScorer, ScoringItem, Output]:
    """Read what a worker is to judge."""
    bound, item, output = pickle.loads(work)
    return bound, item, output


def encode_score(score: Score) -> bytes:
    """Write a score."""
    # Any mapping is a mapping of metrics, and some cannot be pickled.
    return _encode((_SCORE, replace(score, metrics=dict(score.metrics))))


def encode_failure(error: BaseException, traceback: str) -> bytes:
    """Write why there is no score; errors may hold what no pickle can."""
    if isinstance(error, FleetError):
        return _encode((_STATUS, to_status(error).SerializeToString()))
    if isinstance(error, MemoryError):
        return _encode((_MEMORY, None))
    return _encode((_BUG, traceback))


def decode_answer(answer: bytes) -> Score | Exception:
    """Return the score that a worker gave, or why it gave none.

    That is the FleetError that the scorer raised, a MemoryError, or a WorkerBugError.
    """
    kind, value = pickle.loads(answer)
    if kind == _SCORE:
        score: Score = value
        return score
    if kind == _STATUS:
        return from_status(status_pb2.Status.FromString(value))
    return MemoryError() if kind == _MEMORY else WorkerBugError(value)


def _encode(answer: tuple[str, object]) -> bytes:
    return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)

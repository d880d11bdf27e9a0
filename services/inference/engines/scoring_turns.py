"""Scoring requests that are computed together, one pass at a time."""

from collections.abc import Iterator, Sequence

from services.inference.engines.context_group import ContextGroup
from services.inference.engines.scoring_request import ScoringRequest
from services.inference.engines.sequence_model import SequenceModel
from services.inference.failures import InferenceFailure


class ScoringTurns:
    """The scoring requests that were taken up; used by the engine's thread only.

    Args:
        model: computes them.
    """

    def __init__(self, model: SequenceModel) -> None:
        self._model = model
        self._passes: Iterator[Sequence[ContextGroup]] = iter(())
        self._waiting: dict[ScoringRequest, int] = {}
        self._request_of: dict[int, ScoringRequest] = {}
        self.num_scored = 0
        self.num_cancelled = 0

    @property
    def num_waiting(self) -> int:
        """Requests taken up and not yet answered."""
        return len(self._waiting)

    def take_up(self, requests: Sequence[ScoringRequest]) -> None:
        """Begin with some requests; those before must be finished."""
        self._waiting = {request: len(request.groups) for request in requests}
        groups = [group for request in requests for group in request.groups]
        self._request_of = {id(group): request for request in requests for group in request.groups}
        self._passes = self._model.score(groups)

    def compute_pass(self) -> None:
        """Compute one pass and answer the requests that it completes."""
        complete = next(self._passes, None)
        if complete is None:
            self._let_go()
            return
        for group in complete:
            request = self._request_of[id(group)]
            self._waiting[request] -= 1
            if not self._waiting[request]:
                del self._waiting[request]
                self.num_scored += len(request.continuation_lengths)
                request.answer()

    def fail_all(self, failure: InferenceFailure) -> None:
        """End every request with an error."""
        waiting, self._waiting, self._passes = self._waiting, {}, iter(())
        for request in waiting:
            request.responder.fail(failure)

    def _let_go(self) -> None:
        """End the requests that were left out because their callers gave up."""
        for request in self._waiting:
            request.responder.finish()
        self.num_cancelled += len(self._waiting)
        self._waiting = {}

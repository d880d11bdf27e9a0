"""Inspect AI's early stopping by the fleet's stopping rules, which are right whenever one looks."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import anyio
from inspect_ai import Task, task_with
from inspect_ai.dataset import Dataset, MemoryDataset, Sample
from inspect_ai.log import EvalSpec
from inspect_ai.scorer import SampleScore
from inspect_ai.util import EarlyStop
from pydantic import JsonValue

from evalfleet.client_settings import ClientSettings
from evalfleet.connections import Connection
from evalfleet.drawings import Question
from evalfleet.endpoints import find_endpoints
from evalfleet.errors import EvalFleetError, InvalidArgumentError, PermissionDeniedError, UnauthenticatedError
from evalfleet.goals import TaskDecision
from evalfleet.names import short_name
from evalfleet.plugins.inspect.blocking import patiently
from evalfleet.plugins.inspect.drawn_results import DrawnResults, ItemOutcome
from evalfleet.plugins.inspect.score_values import known_value

MANAGER = "evalfleet"
_LOG = logging.getLogger(__name__)
_ORDERING_MODEL = "models/any"
# Who evaluates can mend these at once; after any other the evaluation goes on without being stopped.
_OF_THE_CALLER = (InvalidArgumentError, PermissionDeniedError, UnauthenticatedError)


@dataclass(slots=True)
class _Work:
    """One evaluation: its drawing, the place of each sample in it, what waits to be stored, and what is decided."""

    results: DrawnResults
    draw_indices: Mapping[str, int]
    waiting: list[ItemOutcome] = field(default_factory=list)
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    decision: TaskDecision | None = None
    problem: str = ""

    def go_on_without(self, error: EvalFleetError) -> None:
        """Note why nothing is stopped any more."""
        self.problem = error.message
        _LOG.warning("samples are not stopped early: %s", error.message)


class FleetStopping:
    """Stops an evaluation as soon as what is asked about its mean score is decided, with a bounded risk of being wrong.

        stopping = FleetStopping(at_least=0.55)
        task = stopping.applied_to(Task(dataset, solver=generate(), scorer=match()))

    The aggregation service draws the order of the samples, without which a part of them says nothing about all; results
    count in that order. Samples that were begun are finished. A score that nobody knows is taken for whatever speaks
    against a decision. If the service fails, the evaluation goes on to its end.

    Args:
        at_least: is the mean at least this?
        at_most: is the mean at most this?
        precision: until its interval is at most this to either side.
        scorer: whose scores count, where the task has several scorers.
        key: which of its values counts, where a score has several.
        confidence: 1 minus the probability that any answer is wrong, at least 0.5.
        seed: of the order; the same seed asks all models the same samples first.
        endpoint: ``host:port`` of the aggregation service; default: the environment, or the fleet on this machine.

    Raises:
        InvalidArgumentError: NOTHING_ASKED, or CONFIDENCE_INVALID.
    """

    def __init__(
        self,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        precision: float | None = None,
        scorer: str | None = None,
        key: str | None = None,
        confidence: float = 0.95,
        seed: int = 0,
        endpoint: str | None = None,
    ) -> None:
        wanted = {"at_least": at_least, "at_most": at_most, "precision": precision}
        asked = {kind: value for kind, value in wanted.items() if value is not None}
        if not asked:
            raise InvalidArgumentError("say at_least, at_most or precision", reason="NOTHING_ASKED")
        if not 0.5 <= confidence < 1:
            raise InvalidArgumentError(
                f"confidence is {confidence}; it must be from 0.5 to below 1", reason="CONFIDENCE_INVALID"
            )
        alpha = (1 - confidence) / len(asked)
        self._questions = [Question(**{kind: value}, alpha=alpha) for kind, value in asked.items()]
        self._scorer = scorer
        self._key = key
        self._seed = seed
        self._endpoint = endpoint
        self._connection: Connection | None = None
        self._ids: tuple[str, ...] = ()
        self._order: tuple[str, ...] = ()
        self._data_digest = ""
        # One object may serve several evaluations at once; each runs in a context of its own.
        self._work: ContextVar[_Work] = ContextVar("evalfleet_stopping")

    def applied_to(self, task: Task) -> Task:
        """Bring a task's samples into the drawn order, and have it stopped by this; changes the task and returns it.

        Raises:
            InvalidArgumentError: SAMPLES_NOT_LISTED: the task makes its samples while it runs.
            EvalFleetError: there is no aggregation service.
        """
        if not isinstance(task.dataset, Dataset):
            raise InvalidArgumentError(
                "the samples must be known before the evaluation begins", reason="SAMPLES_NOT_LISTED"
            )
        samples = list(task.dataset)
        for number, sample in enumerate(samples, start=1):
            sample.id = number if sample.id is None else sample.id
        by_id = {str(each.id): each for each in samples}
        if len(by_id) < len(samples):
            raise InvalidArgumentError("two samples have the same id", reason="SAMPLE_ID_TWICE")
        self._ids = tuple(sorted(by_id))
        self._data_digest = _digest([by_id[each] for each in self._ids])
        drawing = self._drawing(f"runs/inspect-order-{self._data_digest[:16]}-{self._seed}", task.name)
        self._order = tuple(
            drawing.create(self._ids, seed=self._seed, model=_ORDERING_MODEL, data_digest=self._data_digest)
        )
        ordered = MemoryDataset([by_id[each] for each in self._order], name=task.dataset.name)
        return task_with(task, dataset=ordered, early_stopping=self)

    async def start_task(self, task: EvalSpec, samples: list[Sample], epochs: int) -> str:
        """Fix what is asked of this evaluation.

        Raises:
            InvalidArgumentError: SAMPLES_NOT_IN_DRAWN_ORDER: they are not the first ones of the drawn order;
                REDUCER_NOT_OFFERED: what counts of an item's epochs is not their mean.
            EvalFleetError: the service refuses this caller. If it is away, the evaluation goes on to its end.
        """
        ids = [str(each.id) for each in samples]
        if tuple(ids) != self._order[: len(ids)] or not ids:
            raise InvalidArgumentError(
                "the samples do not come in the drawn order: use stopping.applied_to(task), and neither sample_id nor "
                "sample_shuffle",
                reason="SAMPLES_NOT_IN_DRAWN_ORDER",
            )
        reducers = [each for each in task.config.epochs_reducer or () if each != "mean"]
        if reducers:
            raise InvalidArgumentError(
                f"decisions are about the mean of an item's epochs, not about {reducers[0]}; leave the reducer away",
                reason="REDUCER_NOT_OFFERED",
                metadata={"reducer": reducers[0]},
            )
        results = self._drawing(f"runs/inspect-{task.eval_id}", task.task)
        work = _Work(results, {item: index for index, item in enumerate(self._order)})
        try:
            await patiently(
                lambda: results.create(
                    self._ids,
                    seed=self._seed,
                    model=f"models/{short_name(task.model)}",
                    data_digest=self._data_digest,
                    questions=self._questions,
                    samples=epochs,
                )
            )
        except _OF_THE_CALLER:
            raise
        except EvalFleetError as error:
            work.go_on_without(error)
        self._work.set(work)
        return MANAGER

    async def schedule_sample(self, id: str | int, epoch: int) -> EarlyStop | None:
        """Stop the sample if everything that is asked is decided."""
        decision = self._work.get().decision
        if decision is None or not decision.is_decided:
            return None
        answers = ", ".join(f"{each.question} {each.answer}" for each in decision.questions)
        return EarlyStop(id=id, epoch=epoch, reason=f"decided after {decision.completed_count} samples: {answers}")

    async def complete_sample(self, id: str | int, epoch: int, scores: dict[str, SampleScore]) -> None:
        """Store the score of a sample, with those that came meanwhile, and see what it decides."""
        work = self._work.get()
        value, reason = known_value(scores, self._scorer, self._key)
        work.waiting.append(
            ItemOutcome(str(id), epoch - 1, work.draw_indices[str(id)], value, reason, "the scorer gave no value")
        )
        async with work.lock:
            outcomes, work.waiting = work.waiting, []
            if not outcomes or work.problem:
                return
            try:
                work.decision = await patiently(lambda: work.results.append(outcomes)) or work.decision
            except EvalFleetError as error:
                work.go_on_without(error)

    async def complete_task(self) -> dict[str, JsonValue]:
        """Return what was decided, after how many samples, and where the results are."""
        work = self._work.get()
        told: dict[str, JsonValue] = {"run": work.results.run}
        try:
            decision = await patiently(work.results.decided)
        except EvalFleetError as error:
            return {**told, "problem": work.problem or error.message}
        return {
            **told,
            **({"problem": work.problem} if work.problem else {}),
            "is_decided": decision.is_decided,
            "answers": {each.question: each.answer.value for each in decision.questions},
            "value": decision.value,
            "interval": [decision.lower, decision.upper],
            "confidence_level": decision.confidence_level,
            "completed_count": decision.completed_count,
            "unknown_count": decision.unknown_count,
            "item_count": decision.item_count,
        }

    def _drawing(self, run: str, task: str) -> DrawnResults:
        if self._connection is None:
            endpoints = find_endpoints({"aggregation": self._endpoint} if self._endpoint else None)
            settings = ClientSettings.with_environment()
            self._connection = Connection("aggregation", endpoints.target("aggregation"), settings)
        metric = "/".join(each for each in (self._scorer, self._key) if each) or "score"
        return DrawnResults(self._connection, run=run, task=task, metric=metric)


def _digest(samples: Sequence[Sample]) -> str:
    """Return SHA-256 (hex) over what is asked and expected."""
    digest = hashlib.sha256(b"evalfleet.inspect.v1")
    for each in samples:
        asked = each.input if isinstance(each.input, str) else [[turn.role, turn.text] for turn in each.input]
        digest.update(json.dumps([str(each.id), asked, each.target, each.choices]).encode())
    return digest.hexdigest()

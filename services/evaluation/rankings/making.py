"""Makes rankings from requests."""

import hashlib
import time
from functools import partial

from services.evaluation.rankings.record import Contender, Ranking, RankingRequest, new_ranking_id
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.task_items import SuiteBook
from services.evaluation.tasks import Suite, Task
from services.runtime.callers import current_caller
from services.runtime.deadlines import child_timeout
from services.runtime.errors import InvalidArgumentError, not_found

_LONGEST_CREATE_SECONDS = 30.0
"""How long a ranking waits to be made for models whose content is still being read, or a service that restarts."""


async def new_ranking(
    request: RankingRequest, suites: SuiteBook, peers: Peers, *, default_concurrency: int, patience_seconds: float
) -> Ranking:
    """The ranking that was asked for, checked as far as that is possible before it begins.

    Raises:
        NotFoundError: suite, task, metric, scorer, guard or model does not exist.
        InvalidArgumentError: TASK_NEEDED: there are several.
        FailedPreconditionError: a guard or a scorer cannot judge as the task wants it to.
    """
    suite = await suites.resolve(request.suite, (request.task,) if request.task else ())
    task = _only_task(suite, request.task)
    if not request.task:
        suite = await suites.resolve(request.suite, (task.name,))
    metric = next((each for each in task.spec.metrics if each.name == request.metric), None)
    if request.metric and metric is None:
        raise not_found(f"metric of task {task.name}", request.metric, [each.name for each in task.spec.metrics])
    await peers.scorers.check(task.spec.scorers)
    await peers.safety.check([task.spec.safety] if task.spec.safety else [])
    ranking_id = request.ranking_id or new_ranking_id()
    contenders = []
    for number, model in enumerate(request.models, 1):
        ask = partial(peers.generator.model_digest, model)
        digest = await wait_out(ask, patience_seconds=child_timeout(min(patience_seconds, _LONGEST_CREATE_SECONDS)))
        contenders.append(Contender(model, digest, f"{ranking_id}-{number}"))
    return Ranking(
        ranking_id=ranking_id,
        suite=suite.name,
        suite_digest=suite.digest,
        task=task.name,
        metric=request.metric or task.spec.primary_metric,
        lower_is_better=not (task.spec.higher_is_better if metric is None else metric.higher_is_better),
        top=request.top,
        margin=request.margin,
        confidence=request.confidence,
        seed=_seed_of(suite) if request.seed is None else request.seed,
        concurrency=request.concurrency or default_concurrency,
        create_time=time.time(),
        contenders=tuple(contenders),
        item_limit=request.item_limit,
        budget=request.budget,
        request_id=request.request_id,
        caller=current_caller(),
        tolerance=request.tolerance,
    )


def _only_task(suite: Suite, wanted: str) -> Task:
    if len(suite.tasks) != 1:
        names = ", ".join(each.name for each in suite.tasks[:20])
        raise InvalidArgumentError(
            f"models are ranked by one task, and {wanted or suite.name!r} names {len(suite.tasks)}: {names}",
            reason="TASK_NEEDED",
            metadata={"suite": suite.name},
        )
    return suite.tasks[0]


def _seed_of(suite: Suite) -> int:
    """The same for every ranking of a suite, so that answers which were given before are found in the cache."""
    return int.from_bytes(hashlib.sha256(f"suite\0{suite.name}".encode()).digest()[:6], "big")

"""Makes runs from what callers ask for, once each, and stores them for whichever replica takes them."""

import asyncio
import dataclasses
import hashlib
import time
from functools import partial

from services.evaluation.runs.accounts import left_of
from services.evaluation.runs.allowances import Allowances
from services.evaluation.runs.budget import Budget
from services.evaluation.runs.choosing import with_tier
from services.evaluation.runs.model_changes import ModelContent, TierChoice
from services.evaluation.runs.peers import Peers
from services.evaluation.runs.record import (
    Escalation,
    Run,
    RunRequest,
    StopReason,
    TaskProgress,
    new_run_id,
)
from services.evaluation.runs.retry import wait_out
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.task_items import SuiteBook
from services.evaluation.runs.tiers import SMOKE, goal_of, next_tier, suite_for
from services.evaluation.tasks import Suite
from services.runtime.callers import ANONYMOUS, current_caller
from services.runtime.deadlines import child_timeout
from services.runtime.errors import AlreadyExistsError

_LONGEST_ID = 63
_CUT_DIGITS = 8
_LONGEST_CREATE_SECONDS = 30.0
"""How long a run waits to be made for a model whose content is still being read, or a service that restarts."""


class RunMaker:
    """Checks what a caller asks for against suites, models, judges and the caller's budget, and stores the run."""

    def __init__(
        self,
        store: RunStore,
        suites: SuiteBook,
        peers: Peers,
        *,
        default_concurrency: int,
        patience_seconds: float,
        allowances: Allowances | None = None,
    ) -> None:
        self._store = store
        self._suites = suites
        self._peers = peers
        self._default_concurrency = default_concurrency
        self._patience_seconds = patience_seconds
        self._allowances = allowances
        self._lock = asyncio.Lock()

    async def make(self, request: RunRequest) -> Run:
        """Store a run, or return the one that a request with this id has made already.

        Raises:
            NotFoundError: suite, task, scorer, guard, policy or model does not exist.
            FailedPreconditionError: a guard or a policy cannot judge what a task wants judged, or a task gives its
                scorer wrong parameters.
            AlreadyExistsError: the run id is taken.
            ResourceExhaustedError: CALLER_BUDGET_EXHAUSTED.
        """
        if (earlier := await self._earlier(request)) is not None:
            return earlier
        caller = current_caller()
        if self._allowances is not None:
            await self._allowances.check(caller)
        suite = await self._suites.resolve(request.suite, request.tasks)
        # The content of a model that was just registered may take a while to be read.
        content = await wait_out(
            partial(self._peers.generator.model_content, request.model),
            patience_seconds=child_timeout(min(self._patience_seconds, _LONGEST_CREATE_SECONDS)),
        )
        wish, choice = await with_tier(request.wish, suite, content, self._store)
        request = dataclasses.replace(request, wish=wish)
        run = await self._run(request, suite, content, caller, choice)
        async with self._lock:
            return await self._add(run, request)

    async def _run(
        self, request: RunRequest, suite: Suite, content: ModelContent, caller: str, choice: TierChoice | None
    ) -> Run:
        """The run that is asked for, its judges checked."""
        has_caller_budget = self._allowances is not None and self._allowances.is_limited(caller)
        goal = dataclasses.replace(
            goal_of(request.wish, suite), has_caller_budget=has_caller_budget, tier_choice=choice
        )
        suite = suite_for(goal, suite)
        await self._peers.scorers.check([use for task in suite.tasks for use in task.spec.scorers])
        await self._peers.safety.check([task.spec.safety for task in suite.tasks if task.spec.safety])
        escalates = request.wish.escalates
        return Run(
            run_id=request.run_id or new_run_id(suite.name),
            suite=suite.name,
            suite_digest=suite.digest,
            model=request.model,
            model_digest=content.digest,
            base_digest=content.base_digest,
            lineage_digest=content.lineage_digest,
            seed=_seed_of(suite) if request.seed is None else request.seed,
            concurrency=request.concurrency or self._default_concurrency,
            create_time=time.time(),
            item_limit=request.item_limit,
            tasks=tuple(task.name for task in suite.tasks) if goal.tier == SMOKE else request.tasks,
            request_id=request.request_id,
            progress=tuple(TaskProgress(task.name) for task in suite.tasks),
            caller=caller,
            priority=request.priority,
            goal=goal,
            escalation=Escalation(request.wish, request.tasks, budget=request.wish.budget) if escalates else None,
        )

    async def make_next(self, run: Run) -> Run:
        """Store the run of the next tier, if one follows, and return ``run`` with its name.

        One follows while no gate has failed, and the caller's budget for all tiers together has something left. It has
        the same name whoever makes it, so that it is made once.

        Args:
            run: as it ended; not stored yet.

        Raises:
            AlreadyExistsError: RUN_EXISTS: another run has that name.
        """
        escalation, tier = run.escalation, run.goal.tier and next_tier(run.goal.tier)
        if escalation is None or not tier or any(each.has_failed for each in run.decisions):
            return run
        budget = _left_after(run, escalation.budget)
        if run.stop_reason is StopReason.CALLER_BUDGET_EXHAUSTED or budget is None:
            return run
        wish = dataclasses.replace(escalation.wish, tier=tier, budget=budget)
        request = RunRequest(
            suite=run.suite,
            model=run.model,
            run_id=_next_id(run, tier),
            seed=run.seed,
            item_limit=run.item_limit,
            tasks=escalation.tasks,
            concurrency=run.concurrency,
            priority=run.priority,
            wish=wish,
        )
        suite = await self._suites.resolve(run.suite, escalation.tasks)
        following = await self._run(request, suite, run.content, run.caller or ANONYMOUS, None)
        linked = dataclasses.replace(escalation, earlier_run=run.name, budget=budget)
        try:
            await self._store.add(dataclasses.replace(following, escalation=linked))
        except AlreadyExistsError:
            # Whoever had the run before may have come so far, too.
            found = await self._store.get(following.run_id)
            if found is None or found.escalation is None or found.escalation.earlier_run != run.name:
                raise
        return dataclasses.replace(run, escalation=dataclasses.replace(escalation, next_run=following.name))

    async def _add(self, run: Run, request: RunRequest) -> Run:
        if (earlier := await self._earlier(request)) is not None:
            return earlier
        if await self._store.get(run.run_id) is not None:
            raise AlreadyExistsError(
                f"run {run.run_id!r} exists already; choose another run_id or leave it out",
                reason="RUN_EXISTS",
                metadata={"run": run.name},
            )
        try:
            await self._store.add(run)
        except AlreadyExistsError:
            # Another replica was asked the same at the same time.
            if (earlier := await self._earlier(request)) is not None:
                return earlier
            raise
        return run

    async def _earlier(self, request: RunRequest) -> Run | None:
        return await self._store.find_request(request.request_id) if request.request_id else None


def _left_after(run: Run, budget: Budget) -> Budget | None:
    """What the caller's budget for all tiers has left after a run; ``None``: nothing."""
    left = left_of(budget, run.spent)
    if budget.wall_seconds is not None:
        used = 0.0 if run.start_time is None else (run.end_time or time.time()) - run.start_time
        left = dataclasses.replace(left, wall_seconds=max(0.0, budget.wall_seconds - used))
    return None if 0 in dataclasses.astuple(left) else left


def _next_id(run: Run, tier: str) -> str:
    """``demo-ab12cd34`` and ``demo-ab12cd34-standard`` go on as ``demo-ab12cd34-deep``."""
    earlier = f"-{run.goal.tier}"
    is_first = run.escalation is None or not run.escalation.earlier_run
    stem = run.run_id if is_first else run.run_id.removesuffix(earlier)
    room = _LONGEST_ID - len(tier) - 1
    if len(stem) > room:
        # Runs whose names differ only in what is cut have followers of different names.
        digest = hashlib.sha256(stem.encode()).hexdigest()[:_CUT_DIGITS]
        stem = f"{stem[: room - _CUT_DIGITS - 1]}-{digest}"
    return f"{stem}-{tier}"


def _seed_of(suite: Suite) -> int:
    """The same for every model, so that all meet the same items in the same order."""
    return int.from_bytes(hashlib.sha256(f"suite\0{suite.name}".encode()).digest()[:6], "big")

"""Predicts the cost of runs from what earlier runs of the same tasks have cost."""

import asyncio
from collections.abc import Mapping, Sequence

from services.evaluation.runs.allowances import Allowances, CallerAccount
from services.evaluation.runs.choosing import with_tier
from services.evaluation.runs.gates import questions_of
from services.evaluation.runs.model_changes import ModelContent
from services.evaluation.runs.peers import Generator, Ledger, TaskFindings
from services.evaluation.runs.planning import EarlierRun, RunPlan, plan_run, plan_task
from services.evaluation.runs.record import Run, RunRequest
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.task_items import SuiteBook, TaskItems
from services.evaluation.runs.tiers import AUTO, goal_of, suite_for
from services.runtime.callers import current_caller
from services.runtime.errors import FailedPreconditionError

_ANY_SEED = 0
_RUNS_LOOKED_AT = 200


class RunPlanner:
    """Predicts what a run would cost; starts and stores nothing."""

    def __init__(
        self,
        store: RunStore,
        suites: SuiteBook,
        ledger: Ledger,
        generator: Generator,
        allowances: Allowances | None = None,
    ) -> None:
        self._generator = generator
        self._store = store
        self._suites = suites
        self._ledger = ledger
        self._allowances = allowances

    async def plan(self, request: RunRequest) -> RunPlan:
        """What the run would probably cost; its model need not be registered, unless it decides the tier.

        Raises:
            NotFoundError, InvalidArgumentError, FailedPreconditionError: as creating the run would.
        """
        suite = await self._suites.resolve(request.suite, request.tasks)
        wish = request.wish
        if wish.tier == AUTO:
            content = await self._generator.model_content(request.model) if request.model else ModelContent("")
            wish, _ = await with_tier(wish, suite, content, self._store)
        goal = goal_of(wish, suite)
        suite = suite_for(goal, suite)
        tasks = await self._suites.draw(suite, seed=_ANY_SEED, limit=request.item_limit)
        questions = questions_of(goal, suite.tasks)
        earlier = await self._earlier_runs(tasks, request.model)
        account = await self._account()

        def plan() -> RunPlan:
            plans = [plan_task(each, questions.get(each.task.name), earlier.get(each.task.name)) for each in tasks]
            return plan_run(plans, goal.budget, account)

        # Some prompts are rendered.
        return await asyncio.to_thread(plan)

    async def _account(self) -> CallerAccount | None:
        caller = current_caller()
        if self._allowances is None or not self._allowances.is_limited(caller):
            return None
        return await self._allowances.account(caller)

    async def _earlier_runs(self, tasks: Sequence[TaskItems], model: str) -> Mapping[str, EarlierRun]:
        """The latest run that has results of each task on the same data, the same model's before any other's."""
        own = await self._store.page(size=_RUNS_LOOKED_AT, model=model) if model else []
        runs = [*own, *await self._store.page(size=_RUNS_LOOKED_AT)]
        read: dict[str, Mapping[str, TaskFindings]] = {}
        found: dict[str, EarlierRun] = {}
        for each in tasks:
            for run in runs:
                if not _has_done(run, each):
                    continue
                if run.run_id not in read:
                    read[run.run_id] = await self._findings(run.name)
                findings = read[run.run_id].get(each.task.name)
                if findings is not None and findings.spent.tokens:
                    # Items that all came from the cache of answers say nothing about what items cost.
                    is_same = run.model == model
                    found[each.task.name] = EarlierRun(run.name, is_same, findings, _wall_seconds_an_item(run))
                    break
        return found

    async def _findings(self, run: str) -> Mapping[str, TaskFindings]:
        try:
            return await self._ledger.findings(run)
        except FailedPreconditionError as error:
            # The list of runs still has it when the ledger's retention has taken its results.
            if error.reason != "RUN_RESULTS_DELETED":
                raise
            return {}


def _has_done(run: Run, each: TaskItems) -> bool:
    return any(
        progress.task == each.task.name and progress.data_digest == each.data_digest and progress.scored_count
        for progress in run.progress
    )


def _wall_seconds_an_item(run: Run) -> float:
    done = sum(progress.scored_count + progress.failed_count for progress in run.progress)
    if run.start_time is None or run.end_time is None or not done:
        return 0.0
    return (run.end_time - run.start_time) / done

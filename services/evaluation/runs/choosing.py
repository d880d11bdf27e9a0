"""Chooses the tier of runs that leave it to the suite, by what is new in their model."""

import dataclasses

from services.evaluation.runs.gates import GoalWish
from services.evaluation.runs.model_changes import ModelChange, ModelContent, TierChoice, change_between, described
from services.evaluation.runs.record import RunState
from services.evaluation.runs.store import RunStore
from services.evaluation.runs.tiers import AUTO, starting_tier
from services.evaluation.tasks import Suite

_RUNS_LOOKED_AT = 500


async def with_tier(
    wish: GoalWish, suite: Suite, content: ModelContent, store: RunStore
) -> tuple[GoalWish, TierChoice | None]:
    """Fill in the tier where that is left to the suite, and say why it is that one.

    Args:
        wish: what the caller asks for.
        suite: says where to begin.
        content: what the model is.
        store: the runs so far.
    """
    if wish.tier != AUTO:
        return wish, None
    change, compared = wish.change, ""
    if change is None:
        change, compared = await _change(suite, content, wish.previous_run, store)
    told = described(change, compared, was_told=wish.change is not None)
    tier, reason = starting_tier(suite, change, told, wish)
    return dataclasses.replace(wish, tier=tier), TierChoice(change, compared, reason)


async def _change(suite: Suite, content: ModelContent, previous_run: str, store: RunStore) -> tuple[ModelChange, str]:
    """What is new in a model, and against which run: the one that the caller names, else the suite's latest.

    A model that has nothing to be compared with is as good as another one.
    """
    if previous_run:
        run = await store.get(previous_run.removeprefix("runs/"))
        found = [run] if run is not None else []
    else:
        runs = await store.page(size=_RUNS_LOOKED_AT)
        done = [run for run in runs if run.suite == suite.name and run.state is RunState.SUCCEEDED]
        # A ranking's runs come at once, of whatever models somebody wants to choose from.
        found = [run for run in done if not run.is_of_ranking][:1]
    if not found:
        return ModelChange.MAJOR, ""
    return change_between(content, found[0].content), found[0].name

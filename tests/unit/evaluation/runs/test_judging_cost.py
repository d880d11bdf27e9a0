"""What judging costs is booked to the item, also where a judge fails, and nothing is judged twice."""

from collections.abc import Sequence
from typing import Any

import pytest

from services.evaluation.runs.budget import Spend
from services.evaluation.runs.fatal_errors import RunCannotGoOnError
from services.evaluation.runs.judging_bill import JudgingBill
from services.evaluation.runs.outcome import JudgeReference
from services.evaluation.runs.peers import ScoredOutput, ScorerCall
from services.evaluation.runs.pipeline import ItemPipeline
from services.runtime.errors import FailedPreconditionError, FleetError, NotFoundError, UnavailableError
from services.runtime.usage import Usage, usage_of
from tests.patience import LONGEST_WAIT_SECONDS

COST = Usage(100, 10, 0.25, 90, 10, 10, 0, 7)
GUARD_COST = Usage(50, 0, 0.125, 50)
COST_IN_METADATA = {
    "usage_prompt_tokens": "100",
    "usage_completion_tokens": "10",
    "usage_engine_seconds": "0.25",
    "usage_computed_prompt_tokens": "90",
    "usage_computed_completion_tokens": "10",
    "usage_prefix_saved_tokens": "10",
    "usage_cost_micro_usd": "7",
}


def unparsable() -> FleetError:
    return FailedPreconditionError("no verdict", reason="JUDGE_UNPARSABLE", metadata=COST_IN_METADATA)


def away() -> FleetError:
    return UnavailableError("loading", retry_after_seconds=0.0, metadata=COST_IN_METADATA)


class FakePanel:
    """Gives each scorer's outcomes that a test lists, one an attempt.

    Attributes:
        asked: the scorers of each attempt.
    """

    def __init__(self, *outcomes: FleetError | Usage, **others: list[FleetError | Usage]) -> None:
        self._outcomes = {"exact_match": list(outcomes), **others}
        self.asked: list[list[str]] = []

    async def score(self, calls: Sequence[ScorerCall]) -> Sequence[ScoredOutput | FleetError]:
        self.asked.append([call.scorer for call in calls])
        return [self._outcome(self._outcomes[call.scorer].pop(0)) for call in calls]

    def _outcome(self, told: FleetError | Usage) -> ScoredOutput | FleetError:
        if isinstance(told, FleetError):
            return told
        return ScoredOutput({"exact_match": 1.0}, None, JudgeReference("scorers/x", "1", "d"), told)


def pipeline(task: Any, fleet: Any, panel: FakePanel, patience_seconds: float = 0.0) -> ItemPipeline:
    return ItemPipeline(
        task,
        model="models/tiny",
        seed=7,
        generator=fleet.generator,
        safety=fleet.safety,
        scorers=panel,  # type: ignore[arg-type]
        patience_seconds=patience_seconds,
    )


async def test_a_judges_cost_is_the_items(fleet: Any, make_task: Any, make_item: Any) -> None:
    (outcome,) = await pipeline(make_task(), fleet, FakePanel(COST)).outcomes(make_item("hello"), 0)

    assert outcome.metrics == {"exact_match": 1.0}
    assert outcome.usage == Usage(3, 2, 0.5) + COST
    assert Spend.of_item(outcome.usage) == Spend(1, 100, 0.75, 7)


async def test_an_item_without_a_verdict_still_pays_for_its_judge(fleet: Any, make_task: Any, make_item: Any) -> None:
    (outcome,) = await pipeline(make_task(), fleet, FakePanel(unparsable())).outcomes(make_item("hello"), 0)

    assert outcome.failure is not None
    assert outcome.failure.reason == "JUDGE_UNPARSABLE"
    assert outcome.usage == Usage(3, 2, 0.5) + COST


async def test_every_attempt_is_paid_for(fleet: Any, make_task: Any, make_item: Any) -> None:
    judged = pipeline(make_task(), fleet, FakePanel(away(), COST), patience_seconds=LONGEST_WAIT_SECONDS)
    (outcome,) = await judged.outcomes(make_item("hello"), 0)

    assert outcome.failure is None
    assert outcome.usage == Usage(3, 2, 0.5) + COST + COST


async def test_a_judge_that_does_not_exist_ends_the_run(fleet: Any, make_task: Any, make_item: Any) -> None:
    missing = NotFoundError("no model named x", reason="JUDGE_MODEL_NOT_FOUND")
    with pytest.raises(RunCannotGoOnError):
        await pipeline(make_task(), fleet, FakePanel(missing)).outcomes(make_item("hello"), 0)


GUARDED = {"safety": {"aspect": "response"}}


async def test_a_guards_cost_is_the_items_beside_that_of_judges(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.safety.cost = GUARD_COST
    (outcome,) = await pipeline(make_task(**GUARDED), fleet, FakePanel(COST)).outcomes(make_item("hello"), 0)

    assert outcome.failure is None
    assert outcome.usage == Usage(3, 2, 0.5) + COST + GUARD_COST


@pytest.mark.parametrize("text", ["garbled", "endless"])
async def test_a_guard_is_paid_that_could_not_judge(text: str, fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.safety.cost = GUARD_COST
    (outcome,) = await pipeline(make_task(**GUARDED), fleet, FakePanel(Usage())).outcomes(make_item(text), 0)

    assert [each.metrics for each in outcome.metric_failures] == [("unsafe",)]
    assert outcome.usage == Usage(3, 2, 0.5) + GUARD_COST


async def test_every_attempt_of_a_guard_is_paid_for(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.safety.cost = GUARD_COST
    fleet.safety.failures = [away()]
    panel = FakePanel(Usage())
    judged = pipeline(make_task(**GUARDED), fleet, panel, patience_seconds=LONGEST_WAIT_SECONDS)
    (outcome,) = await judged.outcomes(make_item("hello"), 0)

    assert outcome.failure is None
    assert outcome.usage == Usage(3, 2, 0.5) + COST + GUARD_COST


async def test_an_empty_response_costs_no_guard(fleet: Any, make_task: Any, make_item: Any) -> None:
    fleet.safety.cost = GUARD_COST
    (outcome,) = await pipeline(make_task(**GUARDED), fleet, FakePanel(Usage())).outcomes(make_item(" "), 0)
    assert outcome.usage == Usage(3, 2, 0.5)


@pytest.mark.parametrize("figure", ["many", "nan", "-3", "inf", ""])
def test_a_cost_that_is_no_number_is_none(figure: str) -> None:
    error = FailedPreconditionError("x", metadata={"usage_prompt_tokens": figure, "usage_engine_seconds": figure})
    assert usage_of(error) == Usage()


async def test_what_one_attempt_found_the_next_does_not_ask_again() -> None:
    panel, bill = FakePanel(Usage(), llm_judge=[away(), COST]), JudgingBill()
    calls = [ScorerCall("exact_match", {}), ScorerCall("llm_judge", {})]
    with pytest.raises(UnavailableError):
        await bill.pay(panel.score, calls)
    first, second = await bill.pay(panel.score, calls)
    assert isinstance(first, ScoredOutput)
    assert isinstance(second, ScoredOutput)
    assert panel.asked == [["exact_match", "llm_judge"], ["llm_judge"]]
    assert (first.usage, second.usage, bill.usage) == (Usage(), COST, COST + COST)


async def test_what_no_attempt_would_change_is_not_attempted_again_while_others_are() -> None:
    garbage, bill = unparsable(), JudgingBill()
    panel = FakePanel(away(), COST, llm_judge=[garbage])
    calls = [ScorerCall("exact_match", {}), ScorerCall("llm_judge", {})]
    with pytest.raises(UnavailableError) as passing:
        await bill.pay(panel.score, calls)
    # Whoever runs out of patience keeps what there is.
    assert bill.outcomes(2, passing.value) == [passing.value, garbage]
    assert (await bill.pay(panel.score, calls))[1] is garbage
    assert panel.asked == [["exact_match", "llm_judge"], ["exact_match"]]
    assert bill.usage == COST + COST + COST


async def test_nothing_is_attempted_again_for_a_run_that_cannot_go_on() -> None:
    missing = NotFoundError("no model named x", reason="JUDGE_MODEL_NOT_FOUND")
    panel, bill = FakePanel(away(), llm_judge=[missing]), JudgingBill()
    with pytest.raises(NotFoundError):
        await bill.pay(panel.score, [ScorerCall("exact_match", {}), ScorerCall("llm_judge", {})])

"""What a run would probably cost, told before anything is spent."""

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.evaluation.items import ChatPrompt, InvalidItem, Item, PlainPrompt, Prompt
from services.evaluation.runs.allowances import CallerAccount
from services.evaluation.runs.budget import Budget, Spend
from services.evaluation.runs.gates import Gate, Precision, TaskQuestions
from services.evaluation.runs.peers import TaskFindings
from services.evaluation.runs.task_items import TaskItems
from services.evaluation.specification import TaskSpec

_FEWEST_ITEMS: Final = 32
_UNKNOWN_GAP: Final = 0.05
_UNKNOWN_SCORE: Final = 0.5
_MIXTURE_OVERHEAD: Final = 1.5
"""Items that a test which may stop at any time takes, over those of one tuned to the very gap it meets."""
_LEAST_VARIANCE: Final = 0.01
_CHARACTERS_A_TOKEN: Final = 3
"""Fewer than English text has in most vocabularies, so that tokens are rather counted too high."""
_SAMPLED_PROMPTS: Final = 20


class CostBasis(enum.Enum):
    """Where a predicted cost comes from; see ``CostBasis`` in evaluation.proto."""

    SAME_MODEL = "same_model"
    OTHER_MODEL = "other_model"
    PROMPTS = "prompts"


@dataclass(frozen=True, slots=True)
class EarlierRun:
    """What an earlier run found about one task: cost and scores of all its items together.

    Attributes:
        wall_seconds_an_item: how long the whole run took, over all of its items.
    """

    run: str
    is_same_model: bool
    findings: TaskFindings
    wall_seconds_an_item: float


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """What one task would probably cost; see ``TaskPlan`` in evaluation.proto."""

    task: str
    item_count: int
    expected_item_count: int
    expected: Spend
    wall_seconds: float
    basis: CostBasis
    basis_run: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would probably cost."""

    tasks: tuple[TaskPlan, ...]
    expected: Spend
    wall_seconds: float
    exceeds_budget: bool
    exceeds_caller_budget: bool = False
    account: CallerAccount | None = None


def plan_run(tasks: Sequence[TaskPlan], budget: Budget, account: CallerAccount | None = None) -> RunPlan:
    """All tasks together, cut to the budgets of run and caller: the limit that is met first ends the run.

    Args:
        tasks: their plans.
        budget: of the run.
        account: of its caller; ``None``: the caller is not limited.
    """
    total = sum((task.expected for task in tasks), Spend())
    seconds = sum(task.wall_seconds for task in tasks)
    share = _share(budget, total, seconds)
    callers_share = 1.0 if account is None else _share(account.left, total, seconds)
    least = min(share, callers_share)
    expected = Spend(
        *(value * least for value in (total.items, total.tokens, total.engine_seconds, total.cost_micro_usd))
    )
    return RunPlan(tuple(tasks), expected, seconds * least, share < 1, callers_share < 1, account)


def _share(budget: Budget, total: Spend, seconds: float) -> float:
    """Which part of a cost a budget has room for."""
    shares = [
        limit / used
        for limit, used in (
            (budget.items, total.items),
            (budget.tokens, total.tokens),
            (budget.engine_seconds, total.engine_seconds),
            (budget.cost_micro_usd, total.cost_micro_usd),
            (budget.wall_seconds, seconds),
        )
        if limit is not None and used > limit
    ]
    return min(shares, default=1.0)


def plan_task(each: TaskItems, questions: TaskQuestions | None, earlier: EarlierRun | None) -> TaskPlan:
    """What one task would cost.

    Args:
        each: the task with its items.
        questions: what is asked of it; ``None``: it is run in full.
        earlier: a run that has done it, the same model's if there is one.
    """
    count = len(each.items)
    scores = {} if earlier is None else earlier.findings.scores
    expected = count if questions is None else expected_items(questions, count, scores.get(questions.metric))
    if earlier is None or not earlier.findings.spent.items:
        cost = _cost_of_prompts(each)
        return TaskPlan(each.task.name, count, expected, _times(cost, expected), 0.0, CostBasis.PROMPTS)
    cost = earlier.findings.spent.mean
    basis = CostBasis.SAME_MODEL if earlier.is_same_model else CostBasis.OTHER_MODEL
    seconds = earlier.wall_seconds_an_item * expected
    return TaskPlan(each.task.name, count, expected, _times(cost, expected), seconds, basis, earlier.run)


def expected_items(asked: TaskQuestions, item_count: int, score: float | None) -> int:
    """Items after which all questions of a task are probably decided; all of them where nothing is asked.

    A test by betting gains about gap² / (2 variance) of log-evidence an item (Waudby-Smith & Ramdas 2024, section 4),
    and decides at log(1 / alpha). Sampling without replacement needs n / (1 + n / N) where sampling with it needs n.
    """
    if not asked.questions:
        return item_count
    mean = _UNKNOWN_SCORE if score is None else score
    variance = max(_LEAST_VARIANCE, mean * (1 - mean))
    needed = 0.0
    for question in asked.questions:
        match question:
            case Gate():
                gap = _UNKNOWN_GAP if score is None else max(1e-3, abs(score - question.threshold))
                log_evidence = math.log(1 / asked.alpha)
            case Precision():
                gap, log_evidence = question.half_width, math.log(2 / asked.alpha)
        needed = max(needed, _MIXTURE_OVERHEAD * 2 * variance * log_evidence / gap**2)
    return min(item_count, max(_FEWEST_ITEMS, math.ceil(needed / (1 + needed / max(1, item_count)))))


def _times(cost: Spend, count: int) -> Spend:
    return Spend(count, cost.tokens * count, cost.engine_seconds * count, cost.cost_micro_usd * count)


def _cost_of_prompts(each: TaskItems) -> Spend:
    """At most this many tokens an item, by the length of some prompts and the longest answers allowed.

    A guard reads each text once here; what more its kind takes, such as a template or a second stage, is not known.
    """
    tokens = [_prompt_tokens(item) for item in itertools.islice(each.items, _SAMPLED_PROMPTS) if isinstance(item, Item)]
    mean = sum(tokens) / max(1, len(tokens))
    generation = each.task.spec.generation
    first = next(iter(itertools.islice(each.items, 1)), None)
    generates = not isinstance(first, Item) or first.is_answered_with_text
    answers = generation.max_tokens * generation.sample_count if generates else 0
    return replace(Spend(items=1), tokens=mean + answers + _judged_tokens(each.task.spec, mean, answers))


def _judged_tokens(task: TaskSpec, prompt: float, answers: float) -> float:
    """What a guard reads of an item with so many tokens of prompt and of all answers; the same prompt only once."""
    if task.safety is None:
        return 0.0
    if task.safety.aspect == "prompt":
        return prompt
    # There is nothing to judge in the choice of an answer.
    return prompt * task.generation.sample_count + answers if answers else 0.0


def _prompt_tokens(item: Item | InvalidItem) -> float:
    if isinstance(item, InvalidItem):
        return 0.0
    if item.multiple_choice is None:
        return (_length(item.prompt) + len(item.scored_text or "")) / _CHARACTERS_A_TOKEN
    groups = [*item.multiple_choice.groups(), item.multiple_choice.unconditional_group()]
    characters = sum(_length(group.context) + sum(map(len, group.continuations)) for group in groups if group)
    return characters / _CHARACTERS_A_TOKEN


def _length(prompt: Prompt | None) -> int:
    match prompt:
        case ChatPrompt(messages):
            return sum(len(message.content) for message in messages)
        case PlainPrompt(text):
            return len(text)
    return 0

"""Compares two runs: reads both once, side by side, then works out every metric of every task."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.aggregation.comparison.answers import Answer, ItemMerge
from services.aggregation.comparison.differences import Difference, holm, paired, unpaired
from services.aggregation.comparison.draw_orders import DrawOrder, uniform_order
from services.aggregation.comparison.errors import RunsNotComparableError
from services.aggregation.comparison.margins import MarginOutcome, MarginRule, Verdict, decide, without_verdict
from services.aggregation.comparison.pairs import MetricPairs, RunPairs, TaskPairs, Unsure
from services.aggregation.comparison.reading import AnswerSource

Values = NDArray[np.float64]
Numbers = NDArray[np.int64]

_UNKNOWN: Final = Unsure(0.0, 1.0, 0.0, 1.0)
_OWN_ORDER_SEED: Final = 20_060_408

_Orders = tuple[DrawOrder | None, DrawOrder | None]


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """A metric to compare.

    Attributes:
        digests: of the task as the base's and the variant's run read it; empty: not told.
        item_count: items that the runs are about; None: those that either has.
    """

    task: str
    metric: str
    lower_is_better: bool = False
    digests: tuple[str, str] = ("", "")
    item_count: int | None = None


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """Two runs, and what is asked about them.

    Attributes:
        metrics: empty: every metric that both have.
        margin: how much worse the variant may be; None: nothing is decided.
    """

    base_run: str
    variant_run: str
    metrics: tuple[MetricRequest, ...] = ()
    margin: float | None = None
    confidence_level: float = 0.95
    cluster_column: str = ""
    allow_unpaired: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of one task.

    Attributes:
        unpaired_reasons: why items were not paired; empty if they were.
        excluded_count: pairs without a value in either run.
        is_partial_draw: a run drew some items more readily than others and has not all of them, so that plain means
            over its items would be biased.
        margin: None without a margin.
    """

    wanted: MetricRequest
    unpaired_reasons: tuple[str, ...]
    base_only_count: int
    variant_only_count: int
    excluded_count: int
    numbers: Difference
    is_partial_draw: bool = False
    adjusted_p_value: float | None = None
    margin: MarginOutcome | None = None


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """All comparisons, and the verdict on all together; None without a margin."""

    comparisons: tuple[Comparison, ...]
    verdict: Verdict | None


async def compare_runs(source: AnswerSource, request: ComparisonRequest) -> ComparedRuns:
    """Compare two runs.

    Raises:
        NotFoundError: a run has no results.
        RunsNotComparableError: something cannot be paired, and that was not allowed.
    """
    wanted: dict[str, frozenset[str]] = {}
    for each in request.metrics:
        wanted[each.task] = wanted.get(each.task, frozenset()) | {each.metric}
    pairs = RunPairs(wanted, request.cluster_column)
    await _read(source, request, pairs)
    runs = request.base_run, request.variant_run
    orders = {task: (await source.order(runs[0], task), await source.order(runs[1], task)) for task in pairs.tasks}
    return await asyncio.to_thread(_work_out, request, pairs.tasks, orders)


async def _read(source: AnswerSource, request: ComparisonRequest, pairs: RunPairs) -> None:
    """Feed both runs' answers, always those of the run that is behind."""
    tasks = {each.task for each in request.metrics}
    only = next(iter(tasks)) if len(tasks) == 1 else None
    merge = ItemMerge(pairs)
    async with AsyncExitStack() as stack:
        sides: list[AsyncGenerator[Sequence[Answer]]] = [
            await stack.enter_async_context(aclosing(source.answers(run, only)))
            for run in (request.base_run, request.variant_run)
        ]
        while (side := merge.is_behind) is not None:
            piece = await anext(sides[side], None)
            if piece is None:
                await asyncio.to_thread(merge.finish, side)
            else:
                await asyncio.to_thread(merge.add, side, piece)


def _work_out(
    request: ComparisonRequest, tasks: Mapping[str, TaskPairs], orders: Mapping[str, _Orders]
) -> ComparedRuns:
    empty = TaskPairs(None, "")
    wanted = request.metrics or tuple(
        MetricRequest(task, metric)
        for task, found in sorted(tasks.items())
        for metric, pairs in sorted(found.metrics.items())
        if len(pairs.base) + len(pairs.base_only) and len(pairs.variant) + len(pairs.variant_only)
    )
    ordered = sorted(wanted, key=lambda each: (each.task, each.metric))
    reasons = {each.task: _unpaired_reasons(each, tasks.get(each.task, empty)) for each in ordered}
    if not request.allow_unpaired and (refused := {task: found for task, found in reasons.items() if found}):
        raise RunsNotComparableError(request.base_run, request.variant_run, refused)
    asked = _Asked(request, len(ordered))
    comparisons = [
        _compared(asked, each, tasks.get(each.task, empty), reasons[each.task], orders.get(each.task, (None, None)))
        for each in ordered
    ]
    adjusted = holm([each.numbers.p_value for each in comparisons])
    return ComparedRuns(
        tuple(replace(each, adjusted_p_value=value) for each, value in zip(comparisons, adjusted, strict=True)),
        None if request.margin is None else _verdict_on_all(comparisons),
    )


def _unpaired_reasons(wanted: MetricRequest, pairs: TaskPairs) -> tuple[str, ...]:
    base_digest, variant_digest = wanted.digests
    found = {
        "DATA_DIFFERS": bool(base_digest and variant_digest and base_digest != variant_digest),
        "PROMPTS_DIFFER": pairs.other_prompt_count > 0,
        "JUDGES_DIFFER": pairs.judges_differ,
        "NO_COMMON_ITEMS": not pairs.pair_count and bool(pairs.base_only_count and pairs.variant_only_count),
    }
    return tuple(reason for reason, is_so in found.items() if is_so)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and how many comparisons it came to."""

    request: ComparisonRequest
    comparison_count: int

    @property
    def rule(self) -> MarginRule | None:
        """What is to be decided of each comparison."""
        if self.request.margin is None:
            return None
        level = self.request.confidence_level
        # All must pass, so a false pass needs no correction; one failure fails all, so a false failure does.
        return MarginRule(self.request.margin, 1 - level, (1 - level) / self.comparison_count, level)


def _compared(
    asked: _Asked, wanted: MetricRequest, pairs: TaskPairs, reasons: tuple[str, ...], orders: _Orders
) -> Comparison:
    request, rule = asked.request, asked.rule
    values = pairs.metrics.get(wanted.metric, MetricPairs())
    base, variant = values.columns(pairs.pair_count)
    has_both = np.isfinite(base) & np.isfinite(variant)
    counts = pairs.pair_count + pairs.base_only_count, pairs.pair_count + pairs.variant_only_count
    is_partial_draw = any(
        order is not None and not order.is_uniform and count < order.size
        for order, count in zip(orders, counts, strict=True)
    )
    if is_partial_draw:
        numbers = Difference(int(has_both.sum()))
    elif reasons:
        numbers = unpaired(
            np.concatenate([base[has_both], values.base_only]),
            np.concatenate([variant[has_both], values.variant_only]),
            request.confidence_level,
        )
    else:
        clusters = pairs.clusters[has_both] if request.cluster_column else None
        numbers = paired(base[has_both], variant[has_both], clusters, request.confidence_level)
    comparison = Comparison(
        wanted=wanted,
        unpaired_reasons=reasons,
        base_only_count=pairs.base_only_count,
        variant_only_count=pairs.variant_only_count,
        excluded_count=int((~has_both).sum()),
        numbers=numbers,
        is_partial_draw=is_partial_draw,
    )
    if rule is None:
        return comparison
    return replace(comparison, margin=_decided(wanted, pairs, values, (reasons, orders[1]), rule))


def _decided(
    wanted: MetricRequest,
    pairs: TaskPairs,
    values: MetricPairs,
    pairing: tuple[tuple[str, ...], DrawOrder | None],
    rule: MarginRule,
) -> MarginOutcome:
    reasons, drawn = pairing
    seen = pairs.pair_count + pairs.base_only_count + pairs.variant_only_count
    size = max(seen, wanted.item_count or 0) if drawn is None else drawn.size
    positions, prefix = _prefix(pairs.draws, size)
    if reasons:
        return without_verdict("UNPAIRED", prefix_count=prefix, item_count=size)
    columns = values.columns(pairs.pair_count)
    if any(np.nanmin(each, initial=0.0) < 0 or np.nanmax(each, initial=0.0) > 1 for each in columns):
        return without_verdict("VALUES_OUT_OF_RANGE", prefix_count=prefix, item_count=size)
    lowest, highest = _extremes(values, columns, lower_is_better=wanted.lower_is_better)
    # An order that is not the run's own has nothing to do with its weights.
    is_own = drawn is not None and len(drawn.inflations) >= prefix and _is_draw_order(pairs.draws[positions][:prefix])
    order = drawn if drawn is not None and is_own else uniform_order(size, prefix)
    outcome = decide(lowest[positions][:prefix], highest[positions][:prefix], order, rule)
    if wanted.lower_is_better and (interval := outcome.interval) is not None:
        return replace(outcome, interval=replace(interval, lower=-interval.upper, upper=-interval.lower))
    return outcome


def _is_draw_order(draws: Numbers) -> bool:
    return bool((draws == np.arange(len(draws))).all())


def _prefix(draws: Numbers, size: int) -> tuple[Numbers, int]:
    """Return the pairs in the order in which they were drawn, and how many there are before the first gap."""
    order = np.argsort(draws, kind="stable")
    gaps = np.flatnonzero(draws[order] != np.arange(len(draws)))
    if not len(gaps):
        return order, len(draws)
    if len(draws) < size:
        return order, int(gaps[0])
    # Nobody drew these one by one. As all are in, any order that knows nothing of them is as good.
    return np.random.default_rng(_OWN_ORDER_SEED).permutation(len(draws)), size


def _extremes(values: MetricPairs, columns: tuple[Values, Values], *, lower_is_better: bool) -> tuple[Values, Values]:
    """Return each pair's difference, better being more, at the worst and at the best that is possible."""
    base, variant = columns
    lowest, highest = variant - base, variant - base
    for position in np.flatnonzero(~np.isfinite(lowest)).tolist() + list(values.unsure):
        unsure = values.unsure.get(position, _UNKNOWN)
        lowest[position] = unsure.variant_lowest - unsure.base_highest
        highest[position] = unsure.variant_highest - unsure.base_lowest
    return (-highest, -lowest) if lower_is_better else (lowest, highest)


def _verdict_on_all(comparisons: Sequence[Comparison]) -> Verdict:
    verdicts = [each.margin.verdict for each in comparisons if each.margin is not None]
    if Verdict.INFERIOR in verdicts:
        return Verdict.INFERIOR
    if verdicts and all(each is Verdict.NOT_INFERIOR for each in verdicts):
        return Verdict.NOT_INFERIOR
    return Verdict.UNDECIDED

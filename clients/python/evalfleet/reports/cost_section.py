"""What the runs cost, and what caches, tiers and early stopping saved."""

from dataclasses import dataclass

from evalfleet.pages.markup import Child, Markup, joined, tag
from evalfleet.pages.numbers import count, money, seconds, share
from evalfleet.pages.page import Section
from evalfleet.pages.share_bars import Part, share_bar
from evalfleet.pages.tables import Row, folded, table
from evalfleet.reports.facts import ReportFacts, RunFacts
from evalfleet.results import TaskTotals


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run cost and what was saved.

    Attributes:
        unasked_items: items of tasks that stopped early; ``unasked_tokens`` is what they would have computed at what
            the task's other items took, which is an estimate.
    """

    items: int
    computed_tokens: int
    prefix_saved_tokens: int
    cache_saved_tokens: int
    unasked_items: int
    unasked_tokens: int
    engine_seconds: float
    cost_usd: float

    @property
    def saved_tokens(self) -> int:
        """Tokens that nobody had to compute."""
        return self.prefix_saved_tokens + self.cache_saved_tokens + self.unasked_tokens


def cost_of(facts: RunFacts) -> RunCost:
    """Add up a run's cost and savings."""
    totals = {each.task: each for each in facts.snapshot.totals}
    unasked = {each.task: each.saved_count for each in facts.run.decisions}
    return RunCost(
        items=sum(each.item_count for each in totals.values()),
        computed_tokens=sum(each.computed_tokens for each in totals.values()),
        prefix_saved_tokens=sum(each.prefix_saved_tokens for each in totals.values()),
        cache_saved_tokens=sum(each.cache_saved_tokens for each in totals.values()),
        unasked_items=sum(unasked.values()),
        unasked_tokens=sum(_tokens_of(saved, totals.get(task)) for task, saved in unasked.items()),
        engine_seconds=sum(each.engine_seconds for each in totals.values()),
        cost_usd=sum(each.cost_usd for each in totals.values()),
    )


def _tokens_of(item_count: int, totals: TaskTotals | None) -> int:
    if totals is None or not totals.item_count:
        return 0
    return round(item_count * totals.computed_tokens / totals.item_count)


def cost_section(facts: ReportFacts) -> Section:
    """Lay out cost and savings of every run, and by task."""
    newest, *older = reversed(facts.runs)
    earlier = [folded(joined("Cost of ", tag("bdi", each.label)), _run(each), class_="older") for each in older]
    content = joined(_run(newest, with_label=bool(older)), *earlier)
    note = "Tokens of the model, its judges and its guards. Those of items that were not asked are an estimate."
    return Section("cost", "Cost and savings", content, note)


def _run(facts: RunFacts, *, with_label: bool = False) -> Markup:
    cost = cost_of(facts)
    whole = cost.computed_tokens + cost.saved_tokens
    tiles = [
        _tile("tokens computed", count(cost.computed_tokens), None, cost.computed_tokens),
        _tile("computed, of all", share(cost.computed_tokens, whole), "of what it were without savings", None),
        _tile("items asked", count(cost.items), _unasked(cost), cost.items),
        _tile("engine time", seconds(cost.engine_seconds), None, cost.engine_seconds),
        _tile(
            "cost",
            money(cost.cost_usd) if cost.cost_usd else "–",
            None if cost.cost_usd else "no prices are set",
            cost.cost_usd,
        ),
    ]
    parts = [
        Part("computed", cost.computed_tokens, "part-a"),
        Part("saved by shared prefixes", cost.prefix_saved_tokens, "part-b"),
        Part("saved by the cache of answers", cost.cache_saved_tokens, "part-c"),
        Part("not asked, about", cost.unasked_tokens, "part-d"),
    ]
    heading = tag("h3", tag("bdi", facts.label)) if with_label else None
    bar = share_bar("Tokens", parts)
    by_task = folded("By task", _by_task(facts)) if facts.snapshot.totals else None
    return joined(heading, tag("dl", *tiles, class_="tiles"), bar, *_words(facts), by_task)


def _tile(label: str, value: str, about: str | None, exact: float | None) -> Markup:
    small = tag("span", about, class_="about") if about else None
    return tag("div", tag("dt", label), tag("dd", value, small, data_value=exact))


def _unasked(cost: RunCost) -> str | None:
    return f"{count(cost.unasked_items)} more were not needed" if cost.unasked_items else None


def _words(facts: RunFacts) -> list[Markup]:
    run = facts.run
    lines: list[Child] = []
    if run.spend is not None and run.budget.is_limited:
        spent = run.spend
        price = money(spent.cost_micro_usd / 1e6)
        lines.append(f"Of its budget it spent {count(spent.items)} items, {count(spent.tokens)} tokens, {price}.")
    if run.earlier_run:
        lines.append(f"It went on from the cheaper tier's run {run.earlier_run}.")
    if run.next_run:
        lines.append(f"The next tier is the run {run.next_run}.")
    elif run.escalates and run.state.is_final:
        lines.append("No dearer tier followed: what that would have cost was saved.")
    return [tag("p", line) for line in lines]


def _by_task(facts: RunFacts) -> Markup:
    headers = [
        "task",
        ">items",
        ">prompt tokens",
        ">answer tokens",
        ">computed",
        ">prefixes",
        ">cache",
        ">engine",
        ">cost",
    ]
    rows = [
        Row(
            (
                tag("bdi", each.task),
                count(each.item_count),
                count(each.prompt_tokens),
                count(each.completion_tokens),
                count(each.computed_tokens),
                count(each.prefix_saved_tokens),
                count(each.cache_saved_tokens),
                seconds(each.engine_seconds),
                money(each.cost_usd) if each.cost_usd else "–",
            ),
            {"data_run": facts.run.name, "data_task": each.task, "data_computed": each.computed_tokens},
        )
        for each in facts.snapshot.totals
    ]
    return table(None, headers, rows)

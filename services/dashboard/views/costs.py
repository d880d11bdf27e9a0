"""What was spent each day and by whom."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from evalfleet.names import short_name
from evalfleet.pages.markup import Attribute, Child
from evalfleet.pages.numbers import count, money, seconds, share
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, table
from evalfleet.results import RunSnapshot

NOBODY = "(nobody said)"


@dataclass(frozen=True, slots=True)
class Spent:
    """What runs came to; tokens are those of prompts and answers, of which ``computed_tokens`` were computed."""

    runs: int = 0
    items: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    engine_seconds: float = 0.0
    cost_usd: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        """Both together."""
        return Spent(
            self.runs + other.runs,
            self.items + other.items,
            self.tokens + other.tokens,
            self.computed_tokens + other.computed_tokens,
            self.engine_seconds + other.engine_seconds,
            self.cost_usd + other.cost_usd,
        )


def spent_by_day(snapshots: Iterable[RunSnapshot]) -> Mapping[tuple[str, str], Spent]:
    """Sum up by the day (UTC) on which a run was made and by who asked for it, newest day first."""
    sums: dict[tuple[str, str], Spent] = {}
    for snapshot in snapshots:
        if snapshot.run.create_time is None:
            continue
        key = (f"{snapshot.run.create_time:%Y-%m-%d}", snapshot.run.caller or NOBODY)
        sums[key] = sums.get(key, Spent()) + spent_of(snapshot)
    return dict(sorted(sums.items(), key=lambda each: (each[0][0], each[1].cost_usd, each[1].tokens), reverse=True))


def spent_of(snapshot: RunSnapshot) -> Spent:
    """Sum up a run's tasks."""
    total = Spent(runs=1)
    for each in snapshot.totals:
        total += Spent(
            0,
            each.item_count,
            each.prompt_tokens + each.completion_tokens,
            each.computed_tokens,
            each.engine_seconds,
            each.cost_usd,
        )
    return total


def costs_sections(snapshots: Iterable[RunSnapshot], *, is_cut: bool) -> list[Section]:
    """Lay out the sums; ``is_cut`` says that older runs are left out."""
    sums = spent_by_day(snapshots)
    rows = [
        Row([day, caller, *_cells(spent)], {"data_day": day, "data_caller": caller, **_told(spent)})
        for (day, caller), spent in sums.items()
    ]
    together = sum(sums.values(), Spent())
    rows.append(Row(["together", "", *_cells(together)], _told(together), is_strong=True))
    headers = ("day (UTC)", "who", ">runs", ">items", ">tokens", ">not computed", ">engine time", ">cost")
    note = "By the day on which a run was made. Not computed: tokens that caches and shared prefixes saved."
    left_out = " Older runs are left out." if is_cut else ""
    return [Section("costs", "Cost by day and team", table(None, headers, rows), note + left_out)]


def _cells(spent: Spent) -> list[Child]:
    return [
        count(spent.runs),
        count(spent.items),
        count(spent.tokens),
        share(max(0, spent.tokens - spent.computed_tokens), spent.tokens),
        seconds(spent.engine_seconds),
        money(spent.cost_usd),
    ]


def models_section(snapshots: Iterable[RunSnapshot]) -> Section:
    """Lay out what each model came to."""
    sums: dict[str, Spent] = {}
    for snapshot in snapshots:
        model = short_name(snapshot.run.model)
        sums[model] = sums.get(model, Spent()) + spent_of(snapshot)
    ordered = sorted(sums.items(), key=lambda each: (each[1].cost_usd, each[1].tokens), reverse=True)
    headers = ("model", ">runs", ">items", ">tokens", ">not computed", ">engine time", ">cost")
    rows = [Row([name, *_cells(spent)], {"data_model": name, **_told(spent)}) for name, spent in ordered]
    return Section("models", "By model", table(None, headers, rows))


def _told(spent: Spent) -> dict[str, Attribute]:
    """Return the numbers of a row as they are, for whoever reads the page with a program."""
    return {f"data_{each.name}": getattr(spent, each.name) for each in fields(spent)}

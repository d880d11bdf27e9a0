"""A suite's models beside each other, and along the training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evalfleet.names import short_name
from evalfleet.pages.markup import Child, Markup, joined, tag
from evalfleet.pages.numbers import number, span
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, table
from evalfleet.reports.facts import ReportFacts, RunFacts, for_the_task, limits_of
from evalfleet.reports.trends_section import trends_section
from evalfleet.results import Run, RunState, Suite, Task

from services.dashboard.views.forms import choice_form, select
from services.dashboard.views.runs import run_link

MOST_MODELS = 30


@dataclass(frozen=True, slots=True)
class Standing:
    """A suite's newest run of each model, in the order in which they were begun."""

    suites: tuple[str, ...]
    suite: str
    runs: tuple[Run, ...]


def standing_of(runs: Sequence[Run], wanted: str) -> Standing:
    """Choose the runs of a suite, or of the one that was run last; newest first in, oldest first out."""
    ended = [each for each in runs if each.state is RunState.SUCCEEDED]
    suites = tuple(dict.fromkeys(each.suite for each in ended))
    suite = next((each for each in suites if wanted in (each, short_name(each))), suites[0] if suites else "")
    newest: dict[tuple[str, str], Run] = {}
    for run in ended:
        if run.suite == suite:
            newest.setdefault((run.model, run.model_digest), run)
    return Standing(suites, suite, tuple(reversed(list(newest.values())[:MOST_MODELS])))


def leaderboard_sections(standing: Standing, suite: Suite | None, facts: ReportFacts | None) -> list[Section]:
    """Lay out the models' primary metrics; ``facts`` holds their runs, in order."""
    form = choice_form(
        "/leaderboard", select("Suite", "suite", map(short_name, standing.suites), short_name(standing.suite))
    )
    if facts is None:
        words = "No run has succeeded yet: start one with `evalfleet run`."
        return [Section("models", "Models", joined(form, tag("p", words, class_="note")))]
    tasks = suite.tasks if suite else ()
    note = (
        f"The newest run of each model, at most {MOST_MODELS}; best values are bold, intervals as the runs have them."
    )
    sections = [Section("models", "Models", joined(form, _table(facts, tasks)), note)]
    trends = trends_section(facts) if len(facts.runs) > 1 else None
    return [*sections, trends] if trends is not None else sections


def _table(facts: ReportFacts, tasks: Iterable[Task]) -> Markup:
    described = {each.name: each for each in tasks}
    columns = list(facts.tasks)
    values = {name: {one.label: _value(one, name) for one in facts.runs} for name in columns}
    best = {name: _best(values[name].values(), described.get(name)) for name in columns}
    rows = [
        Row(
            [
                joined(tag("bdi", one.label), " ", tag("span", run_link(one.run), class_="small")),
                *(_cell(one, name, values[name][one.label] == best[name]) for name in columns),
            ],
            {"data_model": one.run.model},
        )
        for one in reversed(facts.runs)
    ]
    headers = ["model", *(f">{name} {_direction(described.get(name))}".rstrip() for name in columns)]
    return table(None, headers, rows)


def _direction(task: Task | None) -> str:
    return "" if task is None else ("↑" if task.higher_is_better else "↓")


def _value(facts: RunFacts, task: str) -> float | None:
    found = facts.primary(task)
    return found.value if found else None


def _best(values: Iterable[float | None], task: Task | None) -> float | None:
    known = [each for each in values if each is not None]
    if not known or task is None or len(known) < 2:
        return None
    return max(known) if task.higher_is_better else min(known)


def _cell(facts: RunFacts, task: str, is_best: bool) -> Child:
    found = facts.primary(task)
    if found is None or found.value is None:
        return ""
    found = for_the_task(found)
    limits = limits_of(found)
    shown = tag("b" if is_best else "span", number(found.value), data_value=found.value, data_task=task)
    return joined(shown, tag("span", f" {span(*limits)}", class_="small") if limits else None)

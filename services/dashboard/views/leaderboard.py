"""A suite's models beside each other, and along the training."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evalfleet.names import short_name
from evalfleet.pages.markup import Child, Markup, joined, tag
from evalfleet.pages.numbers import count, number, span
from evalfleet.pages.page import Section
from evalfleet.pages.tables import Row, table
from evalfleet.reports.facts import ReportFacts, RunFacts, for_the_task, limits_of
from evalfleet.reports.trends_section import trends_section
from evalfleet.results import Run, RunState, Suite, Task

from services.dashboard.views.forms import choice_form, select
from services.dashboard.views.runs import run_link

MOST_MODELS = 30
_STEP = re.compile(r"(\d{1,18})\D*$")
_DIGEST = re.compile(r"-[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class Standing:
    """A suite's largest run of each model, in the order of the training, or that in which they were made."""

    suites: tuple[str, ...]
    suite: str
    runs: tuple[Run, ...]


def standing_of(runs: Sequence[Run], wanted: str) -> Standing:
    """Choose the runs of a suite, or of the one that was run last; newest first in, oldest first out."""
    # A model's part in a ranking ends with the race, and not when its own score is known.
    ended = [each for each in runs if each.state is RunState.SUCCEEDED and not each.is_of_ranking]
    suites = tuple(dict.fromkeys(each.suite for each in ended))
    suite = next((each for each in suites if wanted in (each, short_name(each))), suites[0] if suites else "")
    of_suite = [each for each in ended if each.suite == suite]
    # What a suite asked before it was changed is not beside what it asks now.
    of_suite = [each for each in of_suite if each.suite_digest == of_suite[0].suite_digest]
    chosen: dict[tuple[str, str], Run] = {}
    for run in of_suite:
        known = chosen.get((run.model, run.model_digest))
        if known is None or _items(run) > _items(known):
            chosen[run.model, run.model_digest] = run
    shown = list(reversed(list(chosen.values())[:MOST_MODELS]))
    return Standing(suites, suite, tuple(sorted(shown, key=_place) if _is_one_training(shown) else shown))


def _items(run: Run) -> int:
    return sum(each.done_count for each in run.tasks)


def _is_one_training(runs: Sequence[Run]) -> bool:
    """Whether the models' names differ by one number alone, as checkpoints' do."""
    return len({_STEP.sub("", _without_digest(each.model)) for each in runs}) == 1


def _place(run: Run) -> int:
    found = _STEP.search(_without_digest(run.model))
    return int(found[1]) if found else 0


def _without_digest(model: str) -> str:
    """Leave out what makes names unique that a folder has given."""
    return _DIGEST.sub("", short_name(model))


def leaderboard_sections(standing: Standing, suite: Suite | None, facts: ReportFacts | None) -> list[Section]:
    """Lay out the models' primary metrics; ``facts`` holds their runs, in order."""
    form = choice_form(
        "/leaderboard", select("Suite", "suite", map(short_name, standing.suites), short_name(standing.suite))
    )
    if facts is None:
        words = "No run has succeeded yet: start one with `evalfleet run`."
        return [Section("models", "Models", joined(form, tag("p", words, class_="note")))]
    tasks = suite.tasks if suite else ()
    note = f"The run of each model with the most items, at most {MOST_MODELS} models; best values are bold."
    sections = [Section("models", "Models", joined(form, _table(facts, tasks)), note)]
    # A line through models that are no checkpoints of one training would say something that is not so.
    trends = trends_section(facts) if len(facts.runs) > 1 and _is_one_training(standing.runs) else None
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
            {"data_model": one.run.model, "data_run": one.run.name},
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
    told = f" {span(*limits)}" if limits else ""
    return joined(shown, tag("span", f"{told} of {count(found.scored_count)}", class_="small"))

"""What answers each path: reads the fleet in a thread of its own and lays the page out."""

import contextlib
import threading
from datetime import UTC, datetime
from pathlib import Path

from evalfleet.errors import NotFoundError
from evalfleet.names import full_name, short_name
from evalfleet.pages.markup import joined, tag
from evalfleet.pages.numbers import count
from evalfleet.pages.tables import badge
from evalfleet.reports.document import report_sections
from evalfleet.reports.facts import ReportFacts, RunFacts, labels_of
from evalfleet.reports.gathering import gather_report
from evalfleet.results import Run, Suite
from starlette.requests import Request
from starlette.responses import Response

from services.dashboard.frame import framed
from services.dashboard.known_runs import MOST_LISTED, KnownRuns
from services.dashboard.views.costs import costs_sections, models_section
from services.dashboard.views.guards import guards_section, quality_section, read_records, silence_section
from services.dashboard.views.leaderboard import leaderboard_sections, standing_of
from services.dashboard.views.outputs import MOST_READ, choice_section, chosen_pairs, outputs_section, paired
from services.dashboard.views.runs import STATES, runs_sections

_LISTED = 200
_EMBEDDED_ITEMS = 200
_RECENT = 50
_MOST_READING = 2


class Pages:
    """The pages; their methods block and are called in threads.

    Args:
        known: the runs.
        records: folder of quality records.
    """

    def __init__(self, known: KnownRuns, records: Path | None) -> None:
        self._known = known
        self._records = records
        # So many read a run's results at once; whoever else comes waits, and the fleet has its runs to do.
        self._busy = threading.BoundedSemaphore(_MOST_READING)

    def runs(self, request: Request) -> Response:
        """List the newest runs."""
        model = request.query_params.get("model", "")
        runs = self._known.newest(model=full_name("models", model) if model else "")
        is_live = any(not each.state.is_final for each in runs)
        return framed("Runs", runs_sections(runs), place="/", is_live=is_live)

    def run(self, request: Request) -> Response:
        """Show one run as its report does."""
        fleet, name = self._known.fleet, request.path_params["name"]
        is_live = not fleet.runs.get(name).state.is_final
        # Read every few seconds, it has what changes; its items come when it has ended.
        with self._busy:
            facts = gather_report(
                fleet, [name], item_count=0 if is_live else _EMBEDDED_ITEMS, with_set_measures=not is_live
            )
        run = facts.newest.run
        header = joined(
            tag(
                "p",
                badge(run.state.value, STATES[run.state]),
                " ",
                tag("bdi", short_name(run.model)),
                " on ",
                tag("bdi", short_name(run.suite)),
                f", {count(sum(each.done_count for each in run.tasks))} items",
                f", asked for by {run.caller}" if run.caller else None,
                ", ",
                tag("a", "side by side with another run", href=f"/outputs?variant={short_name(run.name)}"),
            )
        )
        return framed(f"Run {short_name(run.name)}", report_sections(facts), place="/", header=header, is_live=is_live)

    def leaderboard(self, request: Request) -> Response:
        """Show a suite's models beside each other."""
        standing = standing_of(self._known.newest(), request.query_params.get("suite", ""))
        suite = self._suite(standing.suite)
        facts = self._facts(standing.runs, suite) if standing.runs else None
        return framed("Leaderboard", leaderboard_sections(standing, suite, facts), place="/leaderboard")

    def outputs(self, request: Request) -> Response:
        """Show two runs' outputs beside each other."""
        runs = self._known.newest(limit=_LISTED)
        base, variant = (request.query_params.get(each, "") for each in ("base", "variant"))
        if not base or not variant:
            form = choice_section(runs, base, variant, (), "")
            return framed("Side by side", [form], place="/outputs")
        chosen = [self._known.fleet.runs.get(each) for each in (base, variant)]
        labels = labels_of(chosen)
        facts = [self._run_facts(label, run, self._suite(run.suite)) for label, run in zip(labels, chosen, strict=True)]
        tasks = [each.task for each in chosen[0].tasks if each.task in {other.task for other in chosen[1].tasks}]
        wanted = request.query_params.get("task", "")
        task = wanted if wanted in tasks else (tasks[0] if tasks else "")
        form = choice_section(runs, base, variant, tasks, task)
        results = (
            [self._known.fleet.runs.results(each.name, task=task) for each in chosen] if task else [iter(()), iter(())]
        )
        with self._busy:
            pairs, different, total = chosen_pairs(paired(results[0], results[1], (facts[0], facts[1])))
        is_cut = any(each.item_count > MOST_READ for one in facts for each in one.snapshot.totals if each.task == task)
        section = outputs_section(pairs, different, total, (labels[0], labels[1]), is_cut=is_cut)
        return framed("Side by side", [form, section], place="/outputs")

    def guards(self, _request: Request) -> Response:
        """Show the guards, how good they are, and how often they said nothing."""
        recent = [self._known.snapshot(each) for each in self._known.newest(limit=_RECENT) if each.state.is_final]
        sections = [
            quality_section(read_records(self._records), self._records),
            silence_section(recent),
            guards_section(self._known.fleet.safety.guards()),
        ]
        return framed("Guards", sections, place="/guards")

    def costs(self, _request: Request) -> Response:
        """Show what was spent each day, by whom, and on which models."""
        runs = self._known.newest()
        snapshots = [self._known.snapshot(each) for each in runs]
        sections = costs_sections(snapshots, is_cut=len(runs) == MOST_LISTED)
        return framed("Costs", [*sections, models_section(snapshots)], place="/costs")

    def _suite(self, name: str) -> Suite | None:
        # Its results outlive a suite.
        with contextlib.suppress(NotFoundError):
            return self._known.fleet.suites.get(name) if name else None
        return None

    def _run_facts(self, label: str, run: Run, suite: Suite | None) -> RunFacts:
        return RunFacts(label, self._known.snapshot(run), suite)

    def _facts(self, runs: tuple[Run, ...], suite: Suite | None) -> ReportFacts:
        facts = [self._run_facts(label, run, suite) for label, run in zip(labels_of(runs), runs, strict=True)]
        return ReportFacts(runs=tuple(facts), created=datetime.now(UTC))

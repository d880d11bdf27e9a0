"""A run goes on while its fleet's processes are killed, and is compared with the same run left alone.

Three evaluation services share a list of runs in PostgreSQL, beside a whole fleet with the real Triton and the demo's
tiny policy. At moments spread over the run's items, processes are killed (SIGKILL): any of the evaluation services and
of the others, Triton, and PostgreSQL's first process. Whatever dies is started again, by the fleet's supervisor or as
an orchestrator would. Afterwards every draw must have one outcome, the same as in the run that was left alone. The
evaluation services share the run: in shards, or with --drawn in blocks of drawn items.
"""

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from evalfleet.fleet import Fleet
from evalfleet.goals import Budget
from evalfleet.results import Run, RunState

from benchmarks.chaos.disturbance import (
    EVALUATION,
    POSTGRES,
    SERVICES,
    TRITON,
    WORKER,
    Damage,
    Disturber,
    World,
)
from benchmarks.chaos.outcomes import Comparison, compare
from benchmarks.chaos.replicas import EvaluationReplica, shared_counts
from benchmarks.chaos.suite import SUITE, write_suite
from benchmarks.generation.checkpoint import trained_tiny_policy
from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from services.standalone.postgres_server import running_postgres
from services.standalone.testing import RunningFleet

REPLICAS = 3
LONGEST_TAKEOVER_SECONDS = 15.0
_VICTIMS = (WORKER, EVALUATION, *SERVICES)


@contextmanager
def fleet_of_replicas(folder: Path, checkpoints: Path, item_count: int) -> Iterator[World]:
    """Run a fleet with three evaluation services on a PostgreSQL; everything is stopped afterwards."""
    suite = write_suite(folder / "suite", item_count)
    with ExitStack() as stack:
        server = stack.enter_context(running_postgres())
        if server is None:
            raise SystemExit("needs PostgreSQL (Debian: apt-get install postgresql)")
        url = server.new_database()
        shared = {"EVALFLEET_LEDGER_URL": url}
        fleet = stack.enter_context(
            RunningFleet(checkpoint_roots=[checkpoints], suite_dirs=[suite], environment=shared)
        )
        settings = {"EVALFLEET_RUNS_URL": url, "EVALFLEET_SUITE_DIRS": str(suite)}
        replicas = [
            stack.enter_context(
                EvaluationReplica(fleet.endpoints, folder / f"evaluation-{number}", settings, is_restarted=True)
            )
            for number in range(REPLICAS)
        ]
        yield World(fleet, replicas, server, url)


def copy_of(checkpoint: Path, folder: Path) -> Path:
    """Copy a checkpoint so that it has a digest of its own: no cache knows an answer of it."""
    shutil.copytree(checkpoint, folder)
    template = folder / "chat_template.jinja"
    template.write_text(f"{template.read_text()}{{# {folder.name} #}}")
    return folder


def measure(
    world: World, checkpoints: tuple[Path, Path], options: argparse.Namespace
) -> tuple[Run, Run, Damage, Comparison]:
    """Run the suite undisturbed, then disturbed; return both runs, what was done and what came of it."""
    calm_checkpoint, checkpoint = checkpoints
    with Fleet.connect({**world.fleet.endpoints, "evaluation": world.evaluation_target}) as client:

        def start(path: Path) -> Run:
            model = client.models.add(path).name
            if not options.drawn:
                return client.runs.start(model=model, suite=SUITE, concurrency=options.concurrency)
            # All items fit in. Without history the order depends on the seed alone, so that both runs draw the same.
            budget = Budget(items=options.items)
            return client.runs.start(
                model=model, suite=SUITE, concurrency=options.concurrency, budget=budget, use_history=False
            )

        *_, calm = client.runs.watch(start(calm_checkpoint).name)
        print(f"undisturbed: {calm.run.seconds:.0f} s", flush=True)
        victims = [_VICTIMS[index % len(_VICTIMS)] for index in range(options.kills)]
        victims += [TRITON] * options.triton_kills + [POSTGRES] * options.postgres_kills
        started = start(checkpoint)
        disturber = Disturber(world, started.name, options.items, victims, seed=options.seed)
        disturber.disturb(options.timeout)
        run = client.runs.get(started.name)
        print(f"disturbed: {run.seconds:.0f} s, {dict(disturber.damage.kills)}", flush=True)
        found = compare(world.fleet.endpoints["aggregation"], run.name, calm.run.name, options.items)
    return calm.run, run, disturber.damage, found


def main() -> int:
    """Read the arguments, measure, write the result; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/chaos.json")
    parser.add_argument("--checkpoint", type=Path, default=None, help="default: the tiny policy, trained if need be")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50, help="of services, a third of them of evaluation")
    parser.add_argument("--triton-kills", type=int, default=2)
    parser.add_argument("--postgres-kills", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--drawn", action="store_true", help="under a budget, so that items are drawn, not run in full")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which processes are killed")
    parser.add_argument("--timeout", type=float, default=3600.0, help="longest time of the disturbed run, in seconds")
    options = parser.parse_args()
    checkpoint = options.checkpoint or trained_tiny_policy(ROOT / ".cache" / "tiny_policy")
    with tempfile.TemporaryDirectory(prefix="evalfleet-chaos-") as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        copies = copy_of(checkpoint, checkpoints / "calm"), copy_of(checkpoint, checkpoints / "disturbed")
        with fleet_of_replicas(Path(folder), checkpoints, options.items) as world:
            calm, run, damage, found = measure(world, copies, options)
            shared = shared_counts(world.replicas)
    asked_by_helpers = shared.get(run.name, 0) + shared.get(calm.name, 0)
    takeovers = damage.takeover_seconds
    figures: dict[str, float] = {
        "items": options.items,
        "kills": damage.kills.total(),
        **{f"kills_{name}": count for name, count in sorted(damage.kills.items())},
        "takeovers": len(takeovers),
        "takeover_seconds_median": statistics.median(takeovers or [0.0]),
        "takeover_seconds_max": max(takeovers, default=0.0),
        "draws_without_outcome": found.missing_count,
        "draws_with_several_outcomes": found.repeated_count,
        "failed_items": found.failed_count,
        "draws_that_differ_from_undisturbed": found.differing_count,
        "largest_estimate_difference": found.largest_estimate_difference,
        **({"items_asked_by_helpers": asked_by_helpers} if options.drawn else {}),
        "undisturbed_seconds": calm.seconds or 0.0,
        "disturbed_seconds": run.seconds or 0.0,
    }
    for name, value in figures.items():
        print(f"{name:36} {value:.5g}")
    write_result(
        options.json,
        options.json.stem,
        figures=figures,
        versions=installed_versions("asyncpg", "grpcio", "torch", "transformers"),
        notes=[
            f"{REPLICAS} evaluation services, one of each other service, Triton, PostgreSQL; seed {options.seed}",
            "takeover: from the SIGKILL of the run's worker until another process had the run",
            "no service is killed more than three times in a row within 45 s of each other, since the supervisor would "
            "give it up",
            "both runs compute every answer: their models have digests of their own",
        ],
    )
    kept = (
        run.state is RunState.SUCCEEDED
        and damage.kills.total() == options.kills + options.triton_kills + options.postgres_kills
        and max(takeovers, default=0.0) <= LONGEST_TAKEOVER_SECONDS
        and not (found.missing_count or found.repeated_count or found.differing_count)
        and found.largest_estimate_difference == 0.0
    )
    print("every promise was kept" if kept else f"a promise was broken; the run is {run.state}: {run.failure}")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())

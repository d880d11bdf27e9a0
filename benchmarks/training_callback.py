"""What the trainer's callback costs the training: step times with and without it, and its processor time.

Short trainings of the tiny policy with transformers' Trainer, with and without the callback in turn. Both save a
checkpoint every 25 steps, far more often than anybody does, and keep the last two, so that the callback has to keep
what is still being evaluated. All of its hooks are timed, the submitting of a checkpoint among them. The fleet is a
stub in a process of its own that takes no time, so that what is measured is the callback, and not who shares the
machine; the last part trains beside a real fleet on the same machine, kills it, and starts it again.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from evalfleet.endpoints import SERVICES
from evalfleet.fleet import Fleet
from evalfleet.training import EvaluationRequest
from evalfleet.training.huggingface import EvalFleetCallback
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers.utils import logging as transformers_logging

from benchmarks.peers import ROOT
from benchmarks.report import installed_versions, write_result
from examples.fleet_outage import BreakableFleet, Phase, StepTimes
from examples.policy_trainer import make_tokenizer, policy_trainer
from examples.training_loop import Plan, TrainedBesideFleet, train

STEPS = 150
SAVE_STEPS = 25
KEPT_CHECKPOINTS = 2
POLL_SECONDS = 1.0
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Round:
    """One training.

    Attributes:
        median_seconds: of steps that neither save nor log.
        hook_seconds: what the trainer's thread spent in the callback, submitting of checkpoints included; the end of
            the training, at which results are waited for, is not in it.
        submit_seconds: of that, each time that a checkpoint was saved.
        trainer_cpu_seconds: processor time of the trainer's thread.
        other_threads_cpu_seconds: of all others.
        train_seconds: how long it took, less the wait at its end.
        result_count: results that came.
    """

    median_seconds: float
    hook_seconds: float
    submit_seconds: tuple[float, ...]
    trainer_cpu_seconds: float
    other_threads_cpu_seconds: float
    train_seconds: float
    result_count: int


class HookTimes:
    """Takes the time of a callback's hooks, by name.

    Args:
        callback: each of its hooks is wrapped.
    """

    def __init__(self, callback: TrainerCallback) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        for name in dir(callback):
            if name.startswith("on_"):
                setattr(callback, name, self._timed(name, getattr(callback, name)))

    def total(self) -> float:
        """Return the seconds of all hooks but that of the training's end."""
        return sum(sum(seconds) for name, seconds in self.seconds.items() if name != "on_train_end")

    def _timed(self, name: str, hook: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            began = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds[name].append(time.perf_counter() - began)

        return timed


@contextmanager
def stub_fleet() -> Iterator[str]:
    """Run the stub in a process of its own; yields its address."""
    command = [sys.executable, "-m", "benchmarks.training_stub_fleet"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def run_round(tokenizer: PreTrainedTokenizerFast, target: str | None, number: int) -> Round:
    """Train once, with the callback if there is a fleet."""
    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = policy_trainer(
            tokenizer,
            Path(folder),
            steps=STEPS,
            save_steps=SAVE_STEPS,
            save_total_limit=KEPT_CHECKPOINTS,
            callbacks=[times],
        )
        callback = None
        hooks = None
        if target is not None:
            callback = EvalFleetCallback(
                EvaluationRequest("stub"),
                run_name=f"round-{number}",
                connect=lambda: Fleet.connect(dict.fromkeys(SERVICES, target)),
                poll_seconds=POLL_SECONDS,
            )
            hooks = HookTimes(callback)
            callback.attach(trainer)
        began, process_began, thread_began = time.monotonic(), time.process_time(), time.thread_time()
        trainer.train()
        own = time.thread_time() - thread_began
        others = time.process_time() - process_began - own
        train_seconds = time.monotonic() - began
    if hooks is not None:
        train_seconds -= sum(hooks.seconds["on_train_end"])
    return Round(
        median_seconds=statistics.median(times.seconds[Phase.BEFORE]),
        hook_seconds=hooks.total() if hooks else 0.0,
        submit_seconds=tuple(hooks.seconds["on_save"]) if hooks else (),
        trainer_cpu_seconds=own,
        other_threads_cpu_seconds=others,
        train_seconds=train_seconds,
        result_count=len(callback.results) if callback else 0,
    )


def ratio_with_interval(withs: Sequence[float], withouts: Sequence[float]) -> tuple[float, float, float]:
    """Return the median ratio of neighbouring rounds, and a bootstrap's 95% interval of it."""
    ratios = [a / b for a, b in zip(withs, withouts, strict=True)]
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return statistics.median(ratios), medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES)]


def beside_a_real_fleet(plan: Plan) -> TrainedBesideFleet:
    """Train beside a fleet on this machine that is killed and started again."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "training"
        out.mkdir()
        with BreakableFleet(Path(folder) / "state", out, "triton") as fleet:
            return train(plan, fleet, out)


def main() -> None:
    """Read the arguments, measure, and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_callback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/training_callback.json")
    parser.add_argument("--rounds", type=int, default=12, help="pairs of trainings (default 12)")
    parser.add_argument("--stub-only", action="store_true", help="leave out the part with a real fleet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    tokenizer = make_tokenizer()
    pairs: list[tuple[Round, Round]] = []
    with stub_fleet() as target:
        run_round(tokenizer, target, -1)
        for number in range(arguments.rounds):
            # Which comes first changes, so that a machine that grows slower harms both.
            order = (target, None) if number % 2 else (None, target)
            found = {each: run_round(tokenizer, each, number) for each in order}
            pairs.append((found[target], found[None]))
            print(
                f"round {number + 1}: median step {found[target].median_seconds * 1000:.2f} ms with the callback, "
                f"{found[None].median_seconds * 1000:.2f} ms without",
                flush=True,
            )
    figures = figures_of(pairs)
    notes = [
        f"{arguments.rounds} pairs of trainings of {STEPS} steps, a checkpoint every {SAVE_STEPS}, of which "
        f"{KEPT_CHECKPOINTS} are kept",
        "hook_share: what the trainer's thread spent in all hooks of the callback, submitting included, over the "
        "duration of the training: how much the callback itself lengthens it",
        "callback_cpu_share: processor time of all threads but the trainer's, over the training's duration, less that "
        "of trainings without the callback",
        f"load of the machine when it was over, by others too: {os.getloadavg()[1]:.0f} (mean of 5 minutes)",
        "trainer_cpu_ratio: processor time of the trainer's own thread over a whole training, with over without; "
        "unlike step times it does not change with what else the machine does",
        "slowdown_ratio: of median steps that neither save nor log, with the callback over without; its interval is a "
        "bootstrap over the pairs",
    ]
    if not arguments.stub_only:
        plan = Plan()
        trained = beside_a_real_fleet(plan)
        for phase, seconds in trained.step_seconds.items():
            figures[f"real_fleet_step_ms_{phase.name.lower()}"] = seconds * 1000
        figures["real_fleet_results"] = len(trained.results)
        figures["real_fleet_complete_results"] = sum(each.is_complete for each in trained.results)
        notes.append(
            f"real_fleet: {plan.checkpoints} checkpoints in {plan.steps} steps beside a fleet on the same cores, which "
            f"is killed after half of them and started again after {plan.away_seconds:.0f} s; before and after, its "
            "engines compute beside the trainer"
        )
    for name, value in figures.items():
        print(f"{name:<36} {value:.4g}")
    versions = installed_versions("evalfleet", "transformers", "torch", "grpcio")
    write_result(arguments.json, "training_callback", figures=figures, versions=versions, notes=notes)


def figures_of(pairs: Sequence[tuple[Round, Round]]) -> dict[str, float]:
    """Return the figures of rounds with the callback and without."""
    withs, withouts = zip(*pairs, strict=True)
    ratio, lower, upper = ratio_with_interval(
        [each.median_seconds for each in withs], [each.median_seconds for each in withouts]
    )
    cpu_ratio, cpu_lower, cpu_upper = ratio_with_interval(
        [each.trainer_cpu_seconds for each in withs], [each.trainer_cpu_seconds for each in withouts]
    )
    share = statistics.median(each.other_threads_cpu_seconds / each.train_seconds for each in withs)
    base = statistics.median(each.other_threads_cpu_seconds / each.train_seconds for each in withouts)
    return {
        "step_ms_with": statistics.median(each.median_seconds for each in withs) * 1000,
        "step_ms_without": statistics.median(each.median_seconds for each in withouts) * 1000,
        "slowdown_ratio": ratio,
        "slowdown_lower_ratio": lower,
        "slowdown_upper_ratio": upper,
        "hook_share": statistics.median(each.hook_seconds / each.train_seconds for each in withs),
        "submit_ms": statistics.median(seconds for each in withs for seconds in each.submit_seconds) * 1000,
        "submit_ms_max": max(seconds for each in withs for seconds in each.submit_seconds) * 1000,
        "trainer_cpu_ratio": cpu_ratio,
        "trainer_cpu_lower_ratio": cpu_lower,
        "trainer_cpu_upper_ratio": cpu_upper,
        "callback_cpu_share": share - base,
        "results_collected": sum(each.result_count for each in withs),
    }


if __name__ == "__main__":
    main()

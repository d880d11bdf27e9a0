"""What `make demo` runs: train a tiny policy with transformers' Trainer while a fleet evaluates its checkpoints.

In the middle of the training the fleet is killed, and started again some seconds later.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from evalfleet.fleet import Fleet
from evalfleet.results import Suite
from evalfleet.training import CheckpointResult, EvaluationRequest
from evalfleet.training.huggingface import EvalFleetCallback
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging as transformers_logging

from examples.checkpoint_table import print_checkpoint_table, score
from examples.fleet_outage import BreakableFleet, Outage, Phase, StepTimes
from examples.policy_trainer import make_tokenizer, policy_trainer
from services.standalone.errors import PartFailedError
from services.standalone.options import InferenceKind

SUITE = "demo"
EVALFLEET = (sys.executable, "-m", "evalfleet.cli.main")
_LONGEST_WAIT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long is trained and how it is disturbed.

    Attributes:
        steps: updates of the weights.
        checkpoints: how many are saved, evenly spread.
        item_limit: most items a task.
        away_seconds: between the end of the fleet and its new start; 0: it is left alone.
    """

    steps: int = 600
    checkpoints: int = 4
    item_limit: int | None = None
    away_seconds: float = 5.0
    inference: InferenceKind = "triton"

    @property
    def save_steps(self) -> int:
        """Steps between two checkpoints."""
        return max(1, self.steps // self.checkpoints)


@dataclass(frozen=True, slots=True)
class TrainedBesideFleet:
    """What came of a training.

    Attributes:
        results: of its checkpoints, in the order in which they came.
        step_seconds: median step, by what the fleet did.
        train_seconds: how long the training took, without the wait for the last results.
        callback_cpu_seconds: processor time of all threads of the process but the trainer's own.
        suite: what was run.
    """

    results: tuple[CheckpointResult, ...]
    step_seconds: dict[Phase, float]
    train_seconds: float
    callback_cpu_seconds: float
    suite: Suite


class Narrator(TrainerCallback):
    """Prints what the trainer logs, in a line each."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Print the loss, or what a checkpoint scored."""
        told = logs or {}
        if "evalfleet/step" in told:
            ends = ("_lower", "_upper", "step", "tokens", "items", "usd", "passed")
            shown = [f"{name.split('/')[1]} {value:.2f}" for name, value in told.items() if not name.endswith(ends)]
            print(f"step {state.global_step}: was evaluated: {', '.join(shown)}", flush=True)
        elif "loss" in told:
            print(f"step {state.global_step}: loss {float(told['loss']):.3f}", flush=True)


def main() -> int:
    """Run the demo; 0 if the last checkpoint scored higher than the first and nothing is left running."""
    usual = Plan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=usual.steps, help=f"of training ({usual.steps})")
    parser.add_argument("--checkpoints", type=int, default=usual.checkpoints, help=f"to save ({usual.checkpoints})")
    parser.add_argument("--limit", type=int, help="most items a task; default: all")
    parser.add_argument("--inference", choices=("triton", "local"), default="triton")
    parser.add_argument("--away", type=float, default=usual.away_seconds, help="seconds without a fleet; 0: none (5)")
    options = parser.parse_args()
    if not 2 <= options.checkpoints <= options.steps:
        parser.error("at least two checkpoints, and a step for each, are needed")
    plan = Plan(options.steps, options.checkpoints, options.limit, options.away, options.inference)
    signal.signal(signal.SIGTERM, _leave)
    began = time.monotonic()
    try:
        trained = demonstrate(plan)
    except (PartFailedError, subprocess.CalledProcessError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; everything was stopped.", file=sys.stderr)
        return 130
    say(f"5. Compare, {time.monotonic() - began:.0f} s after the beginning")
    return compare(trained)


def say(step: str) -> None:
    """Announce a step."""
    print(f"\n=== {step}", flush=True)


def demonstrate(plan: Plan) -> TrainedBesideFleet:
    """Start a fleet, train beside it, show what was found, ask for the last checkpoint once more, stop everything.

    Raises:
        PartFailedError: the fleet did not start, or did not stop properly.
        CalledProcessError: a run failed.
    """
    say(f"1. Start a fleet with --inference {plan.inference}: it takes free ports and a temporary folder")
    with tempfile.TemporaryDirectory(prefix="evalfleet-demo-") as folder:
        out = Path(folder) / "training"
        out.mkdir()
        with BreakableFleet(Path(folder) / "state", out, plan.inference) as fleet:
            print(fleet.running.output)
            say(f"2. Train a tiny chat model for {plan.steps} steps; the suite {SUITE} is run on its checkpoints")
            trained = train(plan, fleet, out)
            print()
            print_checkpoint_table(trained.results, trained.suite)
            print_step_times(trained)
            say("3. evalfleet run: the last checkpoint once more; the cache of answers has it all")
            last = max(trained.results, key=lambda each: each.step)
            command = [*EVALFLEET, f"--state-dir={fleet.state_dir}", "run", f"--model={last.checkpoint}"]
            command += [f"--suite={SUITE}", *([] if plan.item_limit is None else [f"--limit={plan.item_limit}"])]
            subprocess.run(command, check=True)
            say("4. Stop the fleet")
            running = fleet.running
        if running.process.returncode != 0:
            problem = f"it ended with exit code {running.process.returncode}"
            raise PartFailedError("fleet", problem, running.state_dir, "")
        print("The fleet has drained; none of its processes is left.")
    return trained


def train(plan: Plan, fleet: BreakableFleet, out: Path) -> TrainedBesideFleet:
    """Train beside a fleet that is killed after half of the checkpoints, and wait for all results.

    Raises:
        PartFailedError: the fleet did not start again.
    """
    # The steps are too small to gain from a second thread.
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    callback = EvalFleetCallback(
        EvaluationRequest(SUITE, item_limit=plan.item_limit),
        run_name="demo",
        connect=lambda: Fleet.connect(state_dir=fleet.state_dir),
        poll_seconds=1.0,
        wait_at_end_seconds=_LONGEST_WAIT_SECONDS,
    )
    times = StepTimes(fleet)
    outage_step = plan.save_steps * (plan.checkpoints // 2)
    disturbances = [Outage(fleet, outage_step, plan.away_seconds)] if plan.away_seconds > 0 else []
    callbacks = [times, Narrator(), *disturbances]
    trainer = policy_trainer(make_tokenizer(), out, steps=plan.steps, save_steps=plan.save_steps, callbacks=callbacks)
    callback.attach(trainer)
    began, process_began, thread_began = time.monotonic(), time.process_time(), time.thread_time()
    trainer.train()
    cpu_seconds = time.process_time() - process_began - (time.thread_time() - thread_began)
    fleet.wait_until_back()
    with Fleet.connect(state_dir=fleet.state_dir) as client:
        suite = client.suites.get(SUITE)
    return TrainedBesideFleet(
        results=tuple(callback.results),
        step_seconds=times.medians(),
        train_seconds=times.last_step_ended - began,
        callback_cpu_seconds=cpu_seconds - fleet.restart_cpu_seconds,
        suite=suite,
    )


def print_step_times(trained: TrainedBesideFleet) -> None:
    """Print what the training noticed of all this."""
    print(f"\nmedian step of {trained.train_seconds:.0f} s of training:")
    for phase, seconds in trained.step_seconds.items():
        print(f"  {seconds * 1000:6.1f} ms  {phase.value}")
    share = trained.callback_cpu_seconds / trained.train_seconds
    print(f"the callback's threads took {share:.2%} of one core; slow-down: python -m benchmarks.training_callback")


def compare(trained: TrainedBesideFleet) -> int:
    """Say whether the training shows; 0 if it does."""
    ordered = sorted(trained.results, key=lambda each: each.step)
    first, last = (score(each, trained.suite) for each in (ordered[0], ordered[-1]))
    print(f"step {ordered[0].step}: {first:.3f}, step {ordered[-1].step}: {last:.3f}, means of the primary metrics")
    if not last > first:
        print("The last checkpoint was trained longer and should score higher", file=sys.stderr)
        return 1
    print("The better-trained checkpoint scores higher.")
    return 0


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    # Unwinds the `with` statements, which stop the fleet.
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

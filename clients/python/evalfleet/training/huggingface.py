"""A callback for transformers' Trainer, and for TRL's trainers, which use the same callbacks.

trainer = Trainer(...)
EvalFleetCallback(EvaluationRequest("demo", gates=("demo_requests>=0.8",))).attach(trainer)
trainer.train()
"""

import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

from evalfleet.errors import MissingExtraError
from evalfleet.fleet import Fleet
from evalfleet.training.checkpoint_results import CheckpointResult, PassedCheckpoint
from evalfleet.training.evaluation_request import EvaluationRequest
from evalfleet.training.evaluator import CAPACITY, POLL_SECONDS, CheckpointEvaluator
from evalfleet.training.harmless import harmless
from evalfleet.training.ranks import from_main_rank, process_group, wait_together

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise MissingExtraError(
        "the callback needs transformers: pip install 'evalfleet[trainer]'", reason="EXTRA_MISSING"
    ) from error

OnGateFailure: TypeAlias = Literal["go_on", "stop", "roll_back"]
"""``stop`` ends the training; ``roll_back`` also loads the weights of the last checkpoint whose gates passed."""

JOURNAL_NAME = "evalfleet-journal.jsonl"
KEPT_NAME = "evalfleet-kept"

_log = logging.getLogger("evalfleet.training")


class EvalFleetCallback(TrainerCallback):
    """Has every checkpoint that the trainer saves evaluated by a fleet, and logs what comes back.

    Results are logged by all that the trainer logs to (TensorBoard, Weights & Biases, MLflow, …), at the step at which
    their checkpoint was saved, however late they come; ``evalfleet/step`` says it too. Nothing waits for the fleet, and
    nothing that goes wrong here ends the training. What is pending at the end is kept in ``evalfleet-journal.jsonl`` in
    the output folder, and a training that goes on there collects it.

    Attributes:
        evaluator: what carries checkpoints and results; ``None`` before the training begins.
        results: what was found so far, in the order in which it came.
        rolled_back_to: the checkpoint whose weights the model has after ``roll_back``.
    """

    def __init__(
        self,
        request: EvaluationRequest,
        *,
        connect: Callable[[], Fleet] = Fleet.connect,
        run_name: str | None = None,
        base: str | None = None,
        locate: Callable[[str], str] = str,
        on_gate_failure: OnGateFailure = "go_on",
        agree_every_steps: int = 10,
        wait_at_end_seconds: float = 0.0,
        capacity: int = CAPACITY,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Describe what is evaluated; the arguments that are not here are those of ``CheckpointEvaluator``.

        Args:
            request: what each checkpoint is asked.
            connect: opens connections to the fleet.
            run_name: of the training; default: the trainer's ``run_name``, or else the name of its output folder.
            base: folder or URL of the base of LoRA adapters.
            locate: turns the path of a folder into the one by which the services see it.
            on_gate_failure: what becomes of the training.
            agree_every_steps: how often ranks tell each other of a failed gate, where it is to stop them.
            wait_at_end_seconds: longest wait for results at the end of the training.
            capacity: most checkpoints that wait or run.
            poll_seconds: how often runs are asked for.
        """
        self._options: dict[str, Any] = {
            "connect": connect,
            "base": base,
            "locate": locate,
            "capacity": capacity,
            "poll_seconds": poll_seconds,
        }
        self._request = request
        self._run_name = run_name
        self._on_gate_failure = on_gate_failure
        self._agree_every_steps = max(1, agree_every_steps)
        self._wait_at_end_seconds = wait_at_end_seconds
        self._trainer: Trainer | None = None
        self.evaluator: CheckpointEvaluator | None = None
        self.results: list[CheckpointResult] = []
        self.rolled_back_to: PassedCheckpoint | None = None

    def attach(self, trainer: Trainer) -> "EvalFleetCallback":
        """Log through this trainer's loggers, and become its first callback: the loggers close after this has ended."""
        self._trainer = trainer
        callbacks = trainer.callback_handler.callbacks
        if self in callbacks:
            callbacks.remove(self)
        callbacks.insert(0, self)
        return self

    @harmless
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Begin, and go on with what an earlier training in the same folder left."""
        if self._trainer is None:
            _log.warning("the callback is not attached to its trainer, so results are logged in log_history alone")
        output = Path(args.output_dir or ".")
        if self.evaluator is not None:
            # Of a training that was interrupted: what it had pending is in the journal.
            self.evaluator.close()
        self.evaluator = CheckpointEvaluator(
            self._request,
            run_name=self._run_name or args.run_name or output.resolve().name,
            journal=output / JOURNAL_NAME,
            # The trainer removes old checkpoints, which the fleet may not have read yet.
            keep_folder=output / KEPT_NAME if args.save_total_limit else None,
            **self._options,
        )
        self.evaluator.resume(state.global_step)

    @harmless
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Submit the checkpoint that was just saved."""
        if self.evaluator is not None and state.is_world_process_zero:
            self.evaluator.submit(state.global_step, Path(args.output_dir or ".") / f"checkpoint-{state.global_step}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Log what has come, and stop if a gate failed and that is wanted."""
        self._log_results(state)
        if self._on_gate_failure == "go_on":
            return
        failed = self._has_failed_gate
        if process_group() is not None:
            # All ranks come here after the same step, and must leave the training after the same one.
            failed = state.global_step % self._agree_every_steps == 0 and from_main_rank(failed)
        if failed:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Wait for results as long as was asked for, and roll back if that is wanted."""
        if self._wait_at_end_seconds > 0:
            # All ranks wait: those that went on would meet the main one's absence in a call that does not last.
            wait_together(self._settle, self._wait_at_end_seconds)
        self._finish(state)
        if self._on_gate_failure == "roll_back":
            passed = self.evaluator.last_passed if self.evaluator is not None and self._has_failed_gate else None
            self._roll_back(from_main_rank(passed))

    @property
    def _has_failed_gate(self) -> bool:
        return self.evaluator is not None and self.evaluator.gate_failure is not None

    @harmless
    def _finish(self, state: TrainerState) -> None:
        if self.evaluator is not None:
            self._log_results(state)
            self.evaluator.close()

    def _settle(self, timeout_seconds: float) -> bool:
        return self.evaluator is None or self.evaluator.settle(timeout_seconds)

    @harmless
    def _log_results(self, state: TrainerState) -> None:
        found = self.evaluator.take_results() if self.evaluator is not None else []
        self.results += found
        for result in found:
            self._log(result, state)

    @harmless
    def _log(self, result: CheckpointResult, state: TrainerState) -> None:
        """Give a result to the trainer's loggers as what it is: a figure of an earlier step.

        ``Trainer.log`` would take it for one of the current step, and those of TRL's trainers would count it as the end
        of an interval of theirs.
        """
        numbers = result.metrics()
        state.log_history.append({**numbers, "step": result.step})
        if self._trainer is not None:
            then = copy.copy(state)
            then.global_step = result.step
            self._trainer.callback_handler.on_log(self._trainer.args, then, copy.copy(self._trainer.control), numbers)

    @harmless
    def _roll_back(self, passed: PassedCheckpoint | None) -> None:
        """Load the last checkpoint whose gates passed; every rank does it."""
        if passed is None:
            if self._has_failed_gate:
                _log.warning("a gate failed, and no earlier checkpoint has passed: there is nothing to roll back to")
            return
        # The trainer may have removed the checkpoint itself by now, or saved the step anew.
        folder = next((each for each in (passed.kept, passed.checkpoint) if os.path.isdir(each)), None)
        if self._trainer is None or folder is None:
            _log.warning("the model cannot be rolled back to %s: it is gone, or nothing is attached", passed.checkpoint)
            return
        self._trainer._load_from_checkpoint(folder)
        self.rolled_back_to = passed
        _log.warning("a gate failed; the model has the weights of step %d again", passed.step)

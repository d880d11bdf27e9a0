"""A callback for Lightning's Trainer.

trainer = lightning.Trainer(callbacks=[EvalFleetCallback(EvaluationRequest("demo"), folder="out", every_steps=500)])
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalfleet.errors import MissingExtraError
from evalfleet.fleet import Fleet
from evalfleet.training.checkpoint_results import CheckpointResult
from evalfleet.training.evaluation_request import EvaluationRequest
from evalfleet.training.evaluator import CheckpointEvaluator
from evalfleet.training.harmless import harmless

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import Logger
except ImportError as error:
    raise MissingExtraError(
        "the callback needs lightning: pip install 'evalfleet[lightning]'", reason="EXTRA_MISSING"
    ) from error

JOURNAL_NAME = "evalfleet-journal.jsonl"


def save_huggingface(module: LightningModule, folder: Path) -> None:
    """Save ``module.model``, and ``module.tokenizer`` if there is one, as a Hugging Face checkpoint.

    Raises:
        AttributeError: the module has no such model; give the callback an ``export`` of your own.
    """
    module.model.save_pretrained(folder)  # type: ignore[operator, union-attr]  # the user's module
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


class EvalFleetCallback(Callback):
    """Saves the model as the services read it every so many steps, has it evaluated, and logs what comes back.

    Lightning's own checkpoints hold the module's state in a form that no inference server loads; these lie beside
    them. Results go to the trainer's loggers with the step at which their checkpoint was saved.

    Attributes:
        results: what was found so far.
        evaluator: what carries checkpoints and results; each training has one of its own.
    """

    def __init__(
        self,
        request: EvaluationRequest,
        *,
        folder: str | Path,
        every_steps: int,
        run_name: str | None = None,
        export: Callable[[LightningModule, Path], None] = save_huggingface,
        stop_on_gate_failure: bool = False,
        wait_at_end_seconds: float = 0.0,
        connect: Callable[[], Fleet] = Fleet.connect,
        **options: Any,
    ) -> None:
        """Describe what is saved and evaluated.

        Args:
            request: what each checkpoint is asked.
            folder: where ``step-N`` folders are saved; they stay.
            every_steps: how often.
            run_name: of the training; default: the folder's name.
            export: saves a module in a folder; called on the main rank alone.
            stop_on_gate_failure: whether a failed gate ends the training, on all ranks after the same batch.
            wait_at_end_seconds: longest wait for results at the end of the training.
            connect: opens connections to the fleet.
            options: further ones of ``CheckpointEvaluator``.
        """
        self._folder = Path(folder)
        self._every_steps = every_steps
        self._export = export
        self._stops = stop_on_gate_failure
        self._wait_at_end_seconds = wait_at_end_seconds
        self._last_step = 0
        self.results: list[CheckpointResult] = []
        self._make_evaluator = functools.partial(
            CheckpointEvaluator,
            request,
            run_name=run_name or self._folder.resolve().name,
            journal=self._folder / JOURNAL_NAME,
            connect=connect,
            **options,
        )
        # Here already, so that a mistake in the options is raised before the training.
        self.evaluator = self._make_evaluator()

    @harmless
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with what an earlier training left."""
        self._last_step = trainer.global_step
        # The one of an earlier training is closed, or was left behind by one that was interrupted.
        self.evaluator.close()
        self.evaluator = self._make_evaluator()
        self.evaluator.resume(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save and submit when it is time, log what has come, and stop if a gate failed and that is wanted."""
        self._after_batch(trainer, pl_module)
        if self._stops:
            failed = self.evaluator.gate_failure is not None
            # A collective call, so that no rank goes on alone; its failure is the training's own.
            trainer.should_stop |= trainer.strategy.reduce_boolean_decision(failed, all=False)

    @harmless
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for results as long as was asked for."""
        if self._wait_at_end_seconds > 0:
            self.evaluator.wait(self._wait_at_end_seconds)
        self._log_results(trainer)
        self.evaluator.close()

    @harmless
    def _after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        step = trainer.global_step
        if step != self._last_step and step % self._every_steps == 0 and trainer.is_global_zero:
            folder = self._folder / f"step-{step}"
            self._export(module, folder)
            self.evaluator.submit(step, folder)
        self._last_step = step
        self._log_results(trainer)

    def _log_results(self, trainer: Trainer) -> None:
        found = self.evaluator.take_results()
        self.results += found
        for result in found:
            for logger in trainer.loggers:
                _log_result(logger, result)


@harmless
def _log_result(logger: Logger, result: CheckpointResult) -> None:
    """Log one result; a logger that fails keeps nothing from the others."""
    logger.log_metrics(result.metrics(), step=result.step)

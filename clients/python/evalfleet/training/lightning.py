"""A callback for Lightning's Trainer.

trainer = lightning.Trainer(callbacks=[EvalFleetCallback(EvaluationRequest("demo"), folder="out", every_steps=500)])
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evalfleet.errors import InvalidArgumentError, MissingExtraError
from evalfleet.fleet import Fleet
from evalfleet.training.checkpoint_results import CheckpointResult
from evalfleet.training.evaluation_request import EvaluationRequest
from evalfleet.training.evaluator import CheckpointEvaluator
from evalfleet.training.harmless import harmless
from evalfleet.training.ranks import wait_together

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
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


def shards_weights(trainer: Trainer) -> bool:
    """Whether no rank has all weights: under FSDP, tensor parallelism and DeepSpeed's ZeRO-3."""
    strategy = trainer.strategy
    return isinstance(strategy, FSDPStrategy | ModelParallelStrategy) or bool(getattr(strategy, "zero_stage_3", False))


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
        export_on_all_ranks: bool = False,
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
            export_on_all_ranks: call ``export`` on every rank, as FSDP and ZeRO-3 need; what it raises then ends the
                training, since the other ranks would wait for the one that raised.
            stop_on_gate_failure: whether a failed gate ends the training, on all ranks after the same batch.
            wait_at_end_seconds: longest wait for results at the end of the training.
            connect: opens connections to the fleet.
            options: further ones of ``CheckpointEvaluator``.
        """
        self._folder = Path(folder)
        self._every_steps = every_steps
        self._export = export
        self._exports_on_all_ranks = export_on_all_ranks
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be saved on one rank, before anything is computed.

        Raises:
            InvalidArgumentError: WEIGHTS_SHARDED.
        """
        if stage == "fit" and not self._exports_on_all_ranks and shards_weights(trainer):
            raise InvalidArgumentError(
                f"{type(trainer.strategy).__name__} leaves each rank a part of the weights, and the main rank cannot "
                "save the model alone: give export_on_all_ranks=True and an export that gathers them on every rank and "
                "writes on rank 0; see docs/training.md",
                reason="WEIGHTS_SHARDED",
            )

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
        if self._exports_on_all_ranks and self._is_due(trainer):
            # Collective calls, as below.
            self._export(pl_module, self._folder / f"step-{trainer.global_step}")
        self._after_batch(trainer, pl_module)
        if self._stops:
            failed = self.evaluator.gate_failure is not None
            # A collective call, so that no rank goes on alone; its failure is the training's own.
            trainer.should_stop |= trainer.strategy.reduce_boolean_decision(failed, all=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for results as long as was asked for."""
        if self._wait_at_end_seconds > 0:
            # All ranks wait: those that went on would meet the main one's absence in a call that does not last.
            wait_together(self.evaluator.settle, self._wait_at_end_seconds)
        self._finish(trainer)

    @harmless
    def _finish(self, trainer: Trainer) -> None:
        self._log_results(trainer)
        self.evaluator.close()

    @harmless
    def _after_batch(self, trainer: Trainer, module: LightningModule) -> None:
        if self._is_due(trainer) and trainer.is_global_zero:
            folder = self._folder / f"step-{trainer.global_step}"
            if not self._exports_on_all_ranks:
                self._export(module, folder)
            self.evaluator.submit(trainer.global_step, folder)
        self._last_step = trainer.global_step
        self._log_results(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.global_step != self._last_step and trainer.global_step % self._every_steps == 0

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

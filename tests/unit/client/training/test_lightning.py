"""The callback in Lightning's Trainer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.errors import InvalidArgumentError
from evalfleet.fleet import Fleet
from evalfleet.training import EvaluationRequest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fakes.fleet import FakeFleet
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.client.training.conftest import RunPerRequest

lightning = pytest.importorskip("lightning.pytorch")
callbacks = pytest.importorskip("evalfleet.training.lightning")
EvalFleetCallback, shards_weights = callbacks.EvalFleetCallback, callbacks.shards_weights


class Recorder(lightning.loggers.Logger):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, dict[str, float]]] = []

    name = version = "recorder"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "evalfleet/step" in metrics:
            assert step is not None
            self.told.append((step, metrics))


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        self.model = LlamaForCausalLM(config)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.model(input_ids=batch, labels=batch).loss
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(callback: Any, logger: Recorder, folder: Path, steps: int = 6, **options: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[callback], logger=logger, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    rows: Any = torch.arange(4).repeat(64, 1)
    trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=1))
    return trainer


def test_checkpoints_are_saved_evaluated_and_logged_at_their_step(
    fake: FakeFleet, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    callback = EvalFleetCallback(
        EvaluationRequest("demo"), folder=tmp_path / "out", every_steps=2, poll_seconds=0.02,
        wait_at_end_seconds=LONGEST_WAIT_SECONDS, connect=lambda: Fleet.connect(fake.targets),
    )  # fmt: skip
    recorder = Recorder()
    fit(callback, recorder, tmp_path)
    assert [(step, metrics["evalfleet/step"]) for step, metrics in recorder.told] == [(2, 2), (4, 4), (6, 6)]
    assert [each.checkpoint_path for each in fake.models.requests] == [
        str(tmp_path / "out" / f"step-{step}") for step in (2, 4, 6)
    ]
    assert (tmp_path / "out" / "step-6" / "model.safetensors").is_file()


def test_a_second_training_with_the_same_callback_is_evaluated_too(
    fake: FakeFleet, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    callback = EvalFleetCallback(
        EvaluationRequest("demo"), folder=tmp_path / "out", every_steps=2, poll_seconds=0.02,
        wait_at_end_seconds=LONGEST_WAIT_SECONDS, connect=lambda: Fleet.connect(fake.targets),
    )  # fmt: skip
    for _ in range(2):
        recorder = Recorder()
        fit(callback, recorder, tmp_path, steps=2)
        assert [step for step, _ in recorder.told] == [2]
    assert [each.step for each in callback.results] == [2, 2]


def test_a_failed_gate_stops_a_training_that_wants_it(
    fake: FakeFleet, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    evaluation.gate_answers = [drawing_pb2.QUESTION_STATE_FAILED]

    class Patient(EvalFleetCallback):  # type: ignore[misc, valid-type]
        def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
            assert self.evaluator.wait(LONGEST_WAIT_SECONDS)

    callback = Patient(
        EvaluationRequest("demo", gates=("arithmetic>=0.5",)), folder=tmp_path / "out", every_steps=2,
        poll_seconds=0.02, stop_on_gate_failure=True, connect=lambda: Fleet.connect(fake.targets),
    )  # fmt: skip
    trainer = fit(callback, Recorder(), tmp_path, steps=20)
    assert trainer.global_step == 3


class ShardedStrategy(lightning.strategies.SingleDeviceStrategy):  # type: ignore[misc, name-defined]
    """As DeepSpeed's says it of itself."""

    zero_stage_3 = True


def test_weights_that_no_rank_has_alone_are_refused_before_the_training(
    fake: FakeFleet, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    def make(**options: Any) -> Any:
        return EvalFleetCallback(
            EvaluationRequest("demo"), folder=tmp_path / "out", every_steps=2, poll_seconds=0.02,
            wait_at_end_seconds=LONGEST_WAIT_SECONDS, connect=lambda: Fleet.connect(fake.targets), **options,
        )  # fmt: skip

    with pytest.raises(InvalidArgumentError, match="export_on_all_ranks=True") as refused:
        fit(make(), Recorder(), tmp_path, strategy=ShardedStrategy("cpu"))
    assert refused.value.reason == "WEIGHTS_SHARDED"
    assert shards_weights(SimpleNamespace(strategy=lightning.strategies.FSDPStrategy()))

    recorder = Recorder()
    fit(make(export_on_all_ranks=True), recorder, tmp_path, strategy=ShardedStrategy("cpu"))
    assert [step for step, _ in recorder.told] == [2, 4, 6]
    assert (tmp_path / "out" / "step-6" / "model.safetensors").is_file()

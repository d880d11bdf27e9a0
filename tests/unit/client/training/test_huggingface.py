"""The callback in transformers' Trainer, with a model of a few hundred weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.fleet import Fleet
from evalfleet.training import EvaluationRequest, PassedCheckpoint
from evalfleet.training.huggingface import JOURNAL_NAME, KEPT_NAME, EvalFleetCallback
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from tests.fakes.fleet import FakeFleet
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.client.training.conftest import RunPerRequest

PASSED, FAILED = drawing_pb2.QUESTION_STATE_PASSED, drawing_pb2.QUESTION_STATE_FAILED
MakeTrainer = Callable[..., Trainer]


class Recorder(TrainerCallback):
    """What the trainer's loggers are told, and at which step."""

    def __init__(self) -> None:
        self.told: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.told.append((state.global_step, dict(logs)))

    @property
    def results(self) -> list[tuple[int, float]]:
        return [(step, logs["evalfleet/step"]) for step, logs in self.told if "evalfleet/step" in logs]


class Waiter(TrainerCallback):
    """Lets every checkpoint's result come before the next step, so that a test knows when."""

    def __init__(self, callback: EvalFleetCallback) -> None:
        self._callback = callback

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self._callback.evaluator is not None
        assert self._callback.evaluator.wait(LONGEST_WAIT_SECONDS)


@pytest.fixture
def make_trainer(tmp_path: Path) -> MakeTrainer:
    def make(*callbacks: TrainerCallback, steps: int = 8, **options: Any) -> Trainer:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"), max_steps=steps, save_steps=2, logging_steps=4, learning_rate=0.1,
            per_device_train_batch_size=1, use_cpu=True, disable_tqdm=True, report_to="none", **options,
        )  # fmt: skip
        rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 4
        return Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=rows, callbacks=list(callbacks))

    return make


def make_callback(fake: FakeFleet, *gates: str, **options: Any) -> EvalFleetCallback:
    request = EvaluationRequest("demo", gates=gates)
    given = {"connect": lambda: Fleet.connect(fake.targets), "poll_seconds": 0.02, **options}
    return EvalFleetCallback(request, **given)


def test_results_are_logged_at_the_step_of_their_checkpoint(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    recorder = Recorder()
    trainer = make_trainer(recorder)
    callback = make_callback(fake, wait_at_end_seconds=LONGEST_WAIT_SECONDS).attach(trainer)
    trainer.train()
    assert [each.step for each in callback.results] == [2, 4, 6, 8]
    assert recorder.results == [(2, 2), (4, 4), (6, 6), (8, 8)]
    logged = [each for each in trainer.state.log_history if "evalfleet/step" in each]
    assert [(each["step"], each["evalfleet/arithmetic/exact_match"]) for each in logged] == [
        (step, 0.75) for step in (2, 4, 6, 8)
    ]
    assert trainer.state.global_step == 8
    folders = [each.checkpoint_path for each in fake.models.requests]
    assert folders == [str(tmp_path / "out" / f"checkpoint-{step}") for step in (2, 4, 6, 8)]


def test_a_logger_that_fails_keeps_no_result_from_the_others(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer
) -> None:
    class Failing(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "evalfleet/step" in logs:
                raise RuntimeError("the logger is gone")

    class AtTheEnd(EvalFleetCallback):
        """Takes all results at once."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...

    trainer = make_trainer(Failing())
    callback = AtTheEnd(
        EvaluationRequest("demo"), connect=lambda: Fleet.connect(fake.targets), poll_seconds=0.02,
        wait_at_end_seconds=LONGEST_WAIT_SECONDS,
    ).attach(trainer)  # fmt: skip
    trainer.train()
    assert [each.step for each in callback.results] == [2, 4, 6, 8]
    assert sum("evalfleet/step" in each for each in trainer.state.log_history) == 4


def test_a_training_without_a_fleet_ends_as_it_would_and_the_next_one_collects(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    fake.stop()
    trainer = make_trainer(save_total_limit=1)
    callback = make_callback(fake).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 8
    assert callback.results == []
    # The trainer has removed all but the last one; the fleet will find them all.
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 1
    assert len(list((tmp_path / "out" / KEPT_NAME).iterdir())) == 4
    assert (tmp_path / "out" / JOURNAL_NAME).exists()

    fake.start()
    recorder = Recorder()
    following = make_trainer(recorder, steps=9)
    make_callback(fake, wait_at_end_seconds=LONGEST_WAIT_SECONDS).attach(following)
    following.train(resume_from_checkpoint=True)
    assert sorted(recorder.results) == [(2, 2), (4, 4), (6, 6), (8, 8), (9, 9)]


def test_a_failed_gate_stops_a_training_that_wants_it(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer
) -> None:
    evaluation.gate_answers = [PASSED, FAILED]
    callback = make_callback(fake, "arithmetic>=0.5", on_gate_failure="stop")
    trainer = make_trainer(Waiter(callback), steps=20)
    callback.attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 5
    assert callback.rolled_back_to is None


def test_a_failed_gate_stops_nothing_unless_that_is_wanted(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer
) -> None:
    evaluation.gate_answers = [FAILED] * 4
    callback = make_callback(fake, "arithmetic>=0.5")
    trainer = make_trainer(Waiter(callback))
    callback.attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 8


def test_rolling_back_gives_the_model_the_last_weights_that_passed(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    evaluation.gate_answers = [PASSED, FAILED]
    callback = make_callback(fake, "arithmetic>=0.5", on_gate_failure="roll_back")
    trainer = make_trainer(Waiter(callback), steps=20)
    callback.attach(trainer)
    trainer.train()
    good = tmp_path / "out" / "checkpoint-2"
    assert callback.rolled_back_to == PassedCheckpoint(2, str(good))
    expected = LlamaForCausalLM.from_pretrained(good).state_dict()
    assert trainer.model is not None
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


def test_rolling_back_finds_weights_that_the_trainer_has_removed(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    evaluation.gate_answers = [PASSED, FAILED]
    callback = make_callback(fake, "arithmetic>=0.5", on_gate_failure="roll_back")
    trainer = make_trainer(Waiter(callback), steps=20, save_total_limit=1)
    callback.attach(trainer)
    trainer.train()
    assert not (tmp_path / "out" / "checkpoint-2").exists()
    kept = tmp_path / "out" / KEPT_NAME / "checkpoint-2"
    assert callback.rolled_back_to == PassedCheckpoint(2, str(tmp_path / "out" / "checkpoint-2"), str(kept))
    expected = LlamaForCausalLM.from_pretrained(kept).state_dict()
    assert trainer.model is not None
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())


def test_without_a_trainer_results_are_in_the_history_alone(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer
) -> None:
    recorder = Recorder()
    trainer = make_trainer(make_callback(fake, wait_at_end_seconds=LONGEST_WAIT_SECONDS), recorder)
    trainer.train()
    assert recorder.results == []
    assert sum("evalfleet/step" in each for each in trainer.state.log_history) == 4


def test_what_goes_wrong_in_the_callback_is_logged_and_no_more(
    make_trainer: MakeTrainer, fake: FakeFleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("evalfleet.training.huggingface.CheckpointEvaluator", fail)
    trainer = make_trainer()
    make_callback(fake).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 8
    assert "a bug" in caplog.text


def test_a_training_that_was_interrupted_and_begun_again_tells_each_result_once(
    fake: FakeFleet, evaluation: RunPerRequest, make_trainer: MakeTrainer
) -> None:
    class Interrupting(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    recorder, interrupting = Recorder(), Interrupting()
    trainer = make_trainer(recorder, interrupting)
    callback = make_callback(fake, wait_at_end_seconds=LONGEST_WAIT_SECONDS).attach(trainer)
    fake.stop()
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    interrupted = callback.evaluator
    trainer.remove_callback(interrupting)
    fake.start()
    trainer.train(resume_from_checkpoint=True)
    assert sorted(recorder.results) == [(2, 2), (4, 4), (6, 6), (8, 8)]
    assert interrupted is not None
    assert not interrupted.submit(9, "/nowhere"), "the one of the interrupted training collects no more"

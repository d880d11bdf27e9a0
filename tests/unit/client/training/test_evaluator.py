"""Checkpoints on their way: submitted, evaluated, collected, whatever becomes of fleet and trainer."""

import json
import logging
import multiprocessing
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.errors import SecurityError, UnauthenticatedError
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import model_pb2
from evalfleet.goals import Outcome
from evalfleet.training import CheckpointEvaluator, CheckpointResult, PassedCheckpoint

from tests.fakes.fleet import FakeFleet
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.client.training.conftest import MakeEvaluator, RunPerRequest

PASSED, FAILED = drawing_pb2.QUESTION_STATE_PASSED, drawing_pb2.QUESTION_STATE_FAILED
Checkpoint = Callable[[int], Path]


def collected(evaluator: CheckpointEvaluator) -> list[CheckpointResult]:
    assert evaluator.wait(LONGEST_WAIT_SECONDS)
    return evaluator.take_results()


def test_a_saved_checkpoint_comes_back_with_its_step(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet
) -> None:
    evaluator = make_evaluator()
    assert evaluator.submit(100, checkpoint(100))
    (result,) = collected(evaluator)
    assert (result.step, result.model, result.run) == (100, "models/made-from-folder", "runs/r0")
    assert result.is_complete
    assert result.outcome is Outcome.UNDECIDED
    metrics = result.metrics()
    assert metrics["evalfleet/step"] == 100
    assert metrics["evalfleet/arithmetic/exact_match"] == 0.75
    assert metrics["evalfleet/arithmetic/exact_match_upper"] == 0.875
    assert metrics["evalfleet/cost_usd"] == pytest.approx(0.003)
    assert "evalfleet/gates_passed" not in metrics
    assert evaluator.take_results() == []
    assert fake.models.requests[0].checkpoint_path.endswith("/out/checkpoint-100")


def test_the_loop_goes_on_while_the_fleet_is_away_and_gets_its_results_later(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evalfleet.training")
    fake.stop()
    evaluator = make_evaluator()
    for step in (1, 2, 3):
        assert evaluator.submit(step, checkpoint(step))
    assert not evaluator.wait(0.3)
    assert evaluator.take_results() == []
    assert evaluator.pending_count == 3
    fake.start()
    assert sorted(each.step for each in collected(evaluator)) == [1, 2, 3]
    told = [each.message for each in caplog.records]
    assert sum("3 checkpoints wait, and training goes on" in each for each in told) == 1
    assert sum("answers again" in each for each in told) == 1


def test_a_run_whose_answer_was_lost_is_not_made_twice(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, evaluation: RunPerRequest
) -> None:
    evaluation.answers_lost = 2
    evaluator = make_evaluator()
    evaluator.submit(5, checkpoint(5))
    (result,) = collected(evaluator)
    assert len(evaluation.by_request) == 1
    assert result.run == "runs/r0"


def test_a_restarted_trainer_collects_what_the_first_one_had_submitted(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, evaluation: RunPerRequest, tmp_path: Path, fake: FakeFleet
) -> None:
    journal = tmp_path / "journal.jsonl"
    evaluation.state = evaluation_pb2.RUN_STATE_RUNNING
    first = make_evaluator(journal=journal)
    first.submit(1, checkpoint(1))
    while not any(json.loads(each)["run"] for each in read_lines(journal)):
        assert not first.wait(0.01)
    fake.stop()
    first.submit(2, checkpoint(2))
    while len({json.loads(each)["key"] for each in read_lines(journal)}) < 2:
        assert not first.wait(0.01)
    first.close()
    with journal.open("a") as file:
        file.write('{"key": "cut sh')

    for run in evaluation.runs.values():
        run.state = evaluation_pb2.RUN_STATE_SUCCEEDED
    evaluation.state = evaluation_pb2.RUN_STATE_SUCCEEDED
    fake.start()
    second = make_evaluator(journal=journal)
    second.resume()
    assert sorted(each.step for each in collected(second)) == [1, 2]
    assert len(evaluation.by_request) == 2
    second.close()

    third = make_evaluator(journal=journal)
    assert collected(third) == []


def failed_steps(evaluator: CheckpointEvaluator) -> list[int]:
    return [evaluator.gate_failure.step] if evaluator.gate_failure else []


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_what_is_too_much_is_not_taken_and_said(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet, caplog: pytest.LogCaptureFixture
) -> None:
    fake.stop()
    evaluator = make_evaluator(capacity=2)
    assert [evaluator.submit(step, checkpoint(step)) for step in (1, 2, 3)] == [True, True, False]
    assert evaluator.dropped_steps == (3,)
    assert "step 3 is not evaluated: 2 checkpoints are pending already" in caplog.text
    fake.start()
    assert sorted(each.step for each in collected(evaluator)) == [1, 2]


def test_a_failed_gate_is_told_and_the_last_good_checkpoint_is_known_after_a_restart(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    evaluation.gate_answers = [PASSED, FAILED]
    good, bad = checkpoint(1), checkpoint(2)
    journal = tmp_path / "journal.jsonl"
    evaluator = make_evaluator(gates=("arithmetic>=0.5",), journal=journal)
    evaluator.submit(1, good)
    assert collected(evaluator)[0].metrics()["evalfleet/gates_passed"] == 1
    assert failed_steps(evaluator) == []
    evaluator.submit(2, bad)
    assert collected(evaluator)[0].metrics()["evalfleet/gates_passed"] == 0
    assert failed_steps(evaluator) == [2]
    assert evaluator.last_passed == PassedCheckpoint(1, str(good))
    evaluator.close()
    again = make_evaluator(journal=journal)
    assert again.wait(LONGEST_WAIT_SECONDS)
    assert again.last_passed == PassedCheckpoint(1, str(good))
    assert failed_steps(again) == []


@pytest.mark.parametrize("answer", [PASSED, FAILED])
def test_an_abandoned_branch_is_told_and_decides_nothing(
    make_evaluator: MakeEvaluator,
    checkpoint: Checkpoint,
    evaluation: RunPerRequest,
    fake: FakeFleet,
    tmp_path: Path,
    answer: drawing_pb2.QuestionState.ValueType,
) -> None:
    evaluation.gate_answers = [PASSED, answer, answer]
    options = {"gates": ("arithmetic>=0.5",), "journal": tmp_path / "journal.jsonl"}
    first, good = make_evaluator(**options), checkpoint(1)
    first.submit(1, good)
    collected(first)
    # One more has its result, and one waits, when the training is begun again from step 1.
    first.submit(2, checkpoint(2))
    collected(first)
    fake.stop()
    first.submit(3, checkpoint(3))
    first.close()

    fake.start()
    second = make_evaluator(**options)
    second.resume(from_step=1)
    assert [each.step for each in collected(second)] == [3]
    second.close()
    # The branch stays abandoned when the training has passed its steps.
    third = make_evaluator(**options)
    third.resume(from_step=9)
    assert third.wait(LONGEST_WAIT_SECONDS)
    for each in (second, third):
        assert failed_steps(each) == []
        assert each.last_passed == PassedCheckpoint(1, str(good))


def test_a_refused_checkpoint_ends_with_the_reason_and_the_next_one_is_evaluated(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet
) -> None:
    evaluator = make_evaluator()
    fake.models.refusal = "CHECKPOINT_INVALID"
    evaluator.submit(1, checkpoint(1))
    (refused,) = collected(evaluator)
    assert refused.failure == "the checkpoint is refused"
    assert not refused.is_complete
    assert refused.metrics() == {"evalfleet/step": 1}
    fake.models.refusal = ""
    evaluator.submit(2, checkpoint(2))
    assert collected(evaluator)[0].is_complete


def test_a_fleet_that_forgot_a_run_is_asked_anew(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, evaluation: RunPerRequest
) -> None:
    evaluation.state = evaluation_pb2.RUN_STATE_RUNNING
    evaluator = make_evaluator()
    evaluator.submit(1, checkpoint(1))
    while not evaluation.runs:
        assert not evaluator.wait(0.01)
    evaluation.state = evaluation_pb2.RUN_STATE_SUCCEEDED
    evaluation.runs.clear()
    assert collected(evaluator)[0].run == "runs/r1"


def test_of_a_lora_training_only_the_adapter_is_sent(
    make_evaluator: MakeEvaluator, tmp_path: Path, fake: FakeFleet
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "checkpoint-7"
    base.mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    evaluator = make_evaluator(locate=lambda path: path.replace(str(tmp_path), "/mnt"))
    evaluator.submit(7, adapter)
    collected(evaluator)
    (request,) = fake.models.requests
    assert (request.checkpoint_path, request.adapter_path) == ("/mnt/base", "/mnt/checkpoint-7")


def test_an_adapter_whose_base_is_on_a_hub_names_it(
    make_evaluator: MakeEvaluator, tmp_path: Path, fake: FakeFleet
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base", "revision": "v2"}))
    evaluator = make_evaluator()
    evaluator.submit(7, tmp_path)
    collected(evaluator)
    (request,) = fake.models.requests
    assert (request.hub.repo_id, request.hub.revision, request.adapter_path) == ("org/base", "v2", str(tmp_path))


def test_kept_files_outlive_the_checkpoint_and_go_with_the_result(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet, tmp_path: Path
) -> None:
    fake.stop()
    keep = tmp_path / "out" / "kept"
    evaluator = make_evaluator(keep_folder=keep, journal=tmp_path / "journal")
    saved = checkpoint(3)
    evaluator.submit(3, saved)
    while not (tmp_path / "journal").exists():
        assert not evaluator.wait(0.01)
    assert sorted(each.name for each in (keep / saved.name).iterdir()) == ["config.json", "model.safetensors"]
    fake.start()
    assert collected(evaluator)[0].checkpoint == str(saved)
    assert fake.models.requests[0].checkpoint_path == str(keep / saved.name)
    assert list(keep.iterdir()) == []


def test_after_it_is_closed_nothing_is_taken_and_nobody_waits(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet
) -> None:
    fake.stop()
    evaluator = make_evaluator()
    evaluator.submit(1, checkpoint(1))
    told: list[bool] = []
    waiter = threading.Thread(target=lambda: told.append(evaluator.wait()))
    waiter.start()
    evaluator.close()
    waiter.join(LONGEST_WAIT_SECONDS)
    assert told == [False]
    assert not evaluator.submit(2, checkpoint(2))
    assert not evaluator.wait()


@pytest.mark.parametrize("way", ["token", "certificate"])
def test_a_fleet_that_lets_nobody_in_costs_no_checkpoint(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused = UnauthenticatedError("the token is out of date") if way == "token" else SecurityError("no certificate")
    refusals = [refused, refused]

    def connect() -> Fleet:
        if refusals:
            raise refusals.pop()
        return Fleet.connect(fake.targets)

    evaluator = make_evaluator(connect=connect)
    evaluator.submit(1, checkpoint(1))
    assert collected(evaluator)[0].is_complete
    assert caplog.text.count("training goes on") == 1


def test_what_passed_last_is_kept_until_another_passes(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    evaluation.gate_answers = [PASSED, FAILED, PASSED]
    keep = tmp_path / "out" / "kept"
    options = {"gates": ("arithmetic>=0.5",), "journal": tmp_path / "journal", "keep_folder": keep}
    evaluator = make_evaluator(**options)
    kept = []
    for step in (1, 2, 3):
        evaluator.submit(step, checkpoint(step))
        collected(evaluator)
        kept.append([each.name for each in keep.iterdir()])
    assert kept == [["checkpoint-1"], ["checkpoint-1"], ["checkpoint-3"]]
    evaluator.close()
    evaluation.gate_answers = [FAILED]
    again = make_evaluator(**options, run_name="other")
    assert again.wait(LONGEST_WAIT_SECONDS)
    passed = again.last_passed
    assert passed is not None
    assert passed.kept == str(keep / "checkpoint-3")
    # Other weights in other files of the same place leave those alone that passed, and in the same files do not.
    weights = tmp_path / "out" / "checkpoint-3" / "model.safetensors"
    for name in ("config.json", "model.safetensors"):
        (weights.parent / name).unlink()
        (weights.parent / name).write_text("other")
    again.submit(3, weights.parent)
    collected(again)
    assert (keep / "checkpoint-3" / "model.safetensors").read_text() == "model.safetensors of 3"
    passed = again.last_passed
    assert passed == PassedCheckpoint(3, str(weights.parent), str(keep / "checkpoint-3"))
    evaluation.gate_answers = [PASSED, FAILED]
    for step in (4, 5):
        again.submit(step, weights.parent)
        collected(again)
    assert again.last_passed is None
    assert list(keep.iterdir()) == []


def test_a_step_that_is_saved_twice_before_the_fleet_has_read_it_is_read_twice(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet, tmp_path: Path
) -> None:
    read: list[bool] = []

    def locate(path: str) -> str:
        read.append((Path(path) / "model.safetensors").is_file())
        return path

    fake.stop()
    keep = tmp_path / "out" / "kept"
    evaluator = make_evaluator(keep_folder=keep, locate=locate)
    saved = checkpoint(3)
    evaluator.submit(3, saved)
    evaluator.submit(3, saved)
    shutil.rmtree(saved)
    read.clear()
    fake.start()
    assert [each.step for each in collected(evaluator)] == [3, 3]
    assert all(read)
    assert len(set(read)) == 1
    assert list(keep.iterdir()) == []


def test_a_checkpoint_that_brings_the_service_down_does_not_keep_it_from_the_others(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, fake: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to be asked for is not always the first: what comes after it has its turn."""
    create = fake.models.CreateModel

    def crash(request: model_pb2.CreateModelRequest, context: grpc.ServicerContext) -> model_pb2.CreateModelResponse:
        if request.checkpoint_path.endswith("checkpoint-1"):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the service has run out of memory")
        return create(request, context)

    fake.stop()
    monkeypatch.setattr(fake.models, "CreateModel", crash)
    told: list[int] = []
    evaluator = make_evaluator(on_result=[lambda result: told.append(result.step)])
    for step in (1, 2, 3):
        evaluator.submit(step, checkpoint(step))
    fake.start()
    while sorted(told) != [2, 3]:
        assert not evaluator.wait(0.01)
    assert evaluator.pending_count == 1


def test_what_was_taken_is_told_once_however_long_a_call_of_the_closed_one_takes(
    make_evaluator: MakeEvaluator,
    checkpoint: Checkpoint,
    fake: FakeFleet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first evaluator is in the middle of a call when the second one goes on with its journal."""
    monkeypatch.setattr("evalfleet.training.evaluator._CLOSE_SECONDS", 0.01)
    is_asked, may_answer = threading.Event(), threading.Event()
    told: list[tuple[str, int]] = []

    def locate(path: str) -> str:
        if path.endswith("checkpoint-2"):
            is_asked.set()
            assert may_answer.wait(LONGEST_WAIT_SECONDS)
        return path

    journal = tmp_path / "journal"
    first = make_evaluator(journal=journal, locate=locate)
    first.submit(1, checkpoint(1))
    assert first.wait(LONGEST_WAIT_SECONDS)
    first.submit(2, checkpoint(2))
    assert is_asked.wait(LONGEST_WAIT_SECONDS)
    told += [("first", each.step) for each in first.take_results()]
    thread = first._thread
    assert thread is not None
    first.close()
    second = make_evaluator(journal=journal)
    told += [("second", each.step) for each in collected(second)]
    may_answer.set()
    thread.join(LONGEST_WAIT_SECONDS)
    told += [("first", each.step) for each in first.take_results()]
    assert told == [("first", 1), ("second", 2)]
    second.close()
    # Nothing that the first one found in the end has brought the checkpoint back.
    assert collected(make_evaluator(journal=journal)) == []


def test_callbacks_get_every_result_and_their_errors_harm_nobody(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []

    def fail(result: CheckpointResult) -> None:
        raise RuntimeError("the logger is gone")

    evaluator = make_evaluator(on_result=[fail, lambda result: told.append(result.step)])
    evaluator.submit(1, checkpoint(1))
    assert [each.step for each in collected(evaluator)] == [1]
    assert told == [1]
    assert "the logger is gone" in caplog.text


def test_other_ranks_do_nothing(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, fake: FakeFleet
) -> None:
    monkeypatch.setenv("RANK", "1")
    threads = threading.active_count()
    evaluator = make_evaluator()
    assert not evaluator.submit(1, checkpoint(1))
    assert not evaluator.wait(0)
    assert threading.active_count() == threads


def test_a_forked_process_is_no_second_submitter(make_evaluator: MakeEvaluator, checkpoint: Checkpoint) -> None:
    evaluator = make_evaluator()
    evaluator.submit(1, checkpoint(1))
    collected(evaluator)
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def work() -> None:
        told.put((evaluator.submit(2, "/nowhere"), evaluator.take_results(), evaluator.wait(0)))
        evaluator.close(wait_seconds=60)

    child = context.Process(target=work)
    child.start()
    child.join(LONGEST_WAIT_SECONDS)
    assert child.exitcode == 0
    assert told.get() == (False, [], False)
    evaluator.submit(3, "/nowhere")
    assert [each.step for each in collected(evaluator)] == [3]


def test_a_journal_that_cannot_be_written_costs_nothing_but_the_journal(
    make_evaluator: MakeEvaluator, checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    evaluator = make_evaluator(journal=tmp_path / "file" / "journal")
    evaluator.submit(1, checkpoint(1))
    assert collected(evaluator)[0].is_complete
    assert "the journal cannot be written" in caplog.text

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from evalfleet.aggregation.v1 import aggregation_pb2
from evalfleet.evaluation.v1 import evaluation_pb2
from evalfleet.generation.v1 import model_pb2
from evalfleet.safety.v1 import safety_pb2

from tests.fakes.demo_run import make_run
from tests.fakes.fleet import FakeFleet

Invoke = Callable[..., Result]


def rows(output: str) -> list[list[str]]:
    """Split a table into its cells (two spaces or more between them)."""
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in output.splitlines()]


def test_models_are_listed(fake: FakeFleet, invoke: Invoke) -> None:
    fake.models.put("step-100", "/checkpoints/step-100")
    fake.models.put("step-200").state = model_pb2.MODEL_STATE_FAILED
    fake.models.models["models/step-200"].failure = "out of memory"
    result = invoke("models")
    assert result.exit_code == 0, result.output
    assert result.output == invoke("models", "list").output
    table = rows(result.stdout)
    assert table[2][:6] == ["step-100", "ready", "LlamaForCausalLM", "float32", "512", "5 MiB"]
    assert table[2][-1] == "/checkpoints/step-100"
    assert "models/step-200: out of memory" in result.stdout


def test_empty_lists_say_what_to_do(invoke: Invoke) -> None:
    assert "evalfleet models add DIR" in invoke("models").stdout
    assert "evalfleet run --model DIR" in invoke("runs").stdout


def test_a_model_is_added_and_removed(fake: FakeFleet, invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "step-100").mkdir()
    added = invoke("models", "add", "step-100", "--id", "mine", "--dtype", "float32")
    assert added.exit_code == 0, added.output
    assert added.stdout == f"models/mine: LlamaForCausalLM, float32, {tmp_path}/step-100\n"
    assert invoke("models", "rm", "mine").stdout == "models/mine removed\n"
    assert fake.models.models == {}


def test_a_foreign_model_is_connected_and_listed_by_where_it_is(
    fake: FakeFleet, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "llama").mkdir()
    told = ("models", "connect", "llm:8001", "llama", "--protocol", "vllm-backend", "--id", "mine")
    assert "give the model's tokenizer" in invoke(*told).stderr
    assert "there is no folder nowhere" in invoke(*told, "--tokenizer", "nowhere").stderr
    result = invoke(*told, "--tokenizer", "llama")
    assert result.exit_code == 0, result.output
    assert result.stdout == "models/mine: llm:8001/llama, vllm_backend; its answers are not cached: no --revision\n"
    assert fake.models.requests[-1].checkpoint_path == f"{tmp_path}/llama"
    assert "llm:8001/llama" in invoke("models").stdout


def test_removing_goes_on_after_an_unknown_model(fake: FakeFleet, invoke: Invoke) -> None:
    fake.models.put("b")
    result = invoke("models", "rm", "a", "b")
    assert result.exit_code == 1
    assert "no model named 'models/a'" in result.stderr
    assert result.stdout == "models/b removed\n"


def test_a_folder_outside_the_roots_gets_the_option_that_adds_it(
    fake: FakeFleet, invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "far").mkdir()
    fake.models.refusal = "CHECKPOINT_OUTSIDE_ROOTS"
    result = invoke("models", "add", "far")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: the checkpoint is refused",
        "A fleet on this machine is told so with `evalfleet up --checkpoint-root DIR`.",
    ]


def test_a_folder_that_is_not_there_is_wrong_usage(invoke: Invoke) -> None:
    assert invoke("models", "add", "nowhere").exit_code == 2


def test_runs_are_listed(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run("r1", done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    started = fake.evaluation.put(make_run("r2", done=3))
    started.tasks[1].ClearField("item_count")
    table = rows(invoke("runs").stdout)
    assert table[0] == ["run", "suite", "model", "state", "done", "failed", "seconds", "created"]
    assert table[2][:7] == ["r1", "demo", "step-100", "succeeded", "18/18", "1", "12.0"]
    assert table[3][:6] == ["r2", "demo", "step-100", "running", "3/?", "1"]


def test_runs_of_one_model(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run("r1", model="models/a"))
    fake.evaluation.put(make_run("r2", model="models/b"))
    assert [each[0] for each in rows(invoke("runs", "--model", "b").stdout)[2:]] == ["r2"]


def test_failed_items_are_shown_with_their_reasons(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    result = invoke("show", "r1", "--failed")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("arithmetic a-7: PROMPT_TOO_LONG: 600 tokens, the context holds 512\n")
    del fake.aggregation.failed[:]
    assert invoke("show", "r1", "--failed").stdout.endswith("no item failed\n")


def test_a_judge_without_a_verdict_is_counted_by_metric_with_its_reason(fake: FakeFleet, invoke: Invoke) -> None:
    """Tables, remarks, the list of failures and JSON all say it."""
    fake.evaluation.put(make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    judged = fake.aggregation.estimates[0]
    judged.metric, judged.failed_count, judged.unjudged_count = "judged", 4, 3
    judged.failures_by_reason.update({"PROMPT_TOO_LONG": 1, "JUDGE_UNPARSABLE": 3})
    unjudged = aggregation_pb2.Result(task="arithmetic", item="a-9")
    unjudged.scored.metrics["exact_match"] = 1.0
    for metric, reason in (("judged", "JUDGE_UNPARSABLE"), ("unsafe", "SAFETY_VERDICT_ERROR")):
        unjudged.metric_failures.add(metrics=[metric], reason=reason, message="no verdict")
    fake.aggregation.failed.append(unjudged)

    result = invoke("show", "r1", "--failed")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    (row,) = [line for line in lines if " judged " in f" {line} " and "…" in line and "failed" not in line]
    assert row.endswith(" 4")
    assert "failed: 1 × PROMPT_TOO_LONG in arithmetic" in lines
    assert "failed: 3 × JUDGE_UNPARSABLE in arithmetic: judged" in lines
    assert any(
        line.startswith("not judged: 3 of 13 items (23.1%, 8.2% … 50.3%) in arithmetic: judged;") for line in lines
    )
    assert "arithmetic a-9 judged: JUDGE_UNPARSABLE: no verdict" in lines
    assert "arithmetic a-9 unsafe: SAFETY_VERDICT_ERROR: no verdict" in lines

    told = json.loads(invoke("show", "r1", "--json", "-").stdout)["estimates"][0]
    assert (told["failed_count"], told["unjudged_count"]) == (4, 3)
    assert told["failures_by_reason"] == {"PROMPT_TOO_LONG": 1, "JUDGE_UNPARSABLE": 3}


def test_square_brackets_of_a_message_are_no_markup(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run(done=10, state=evaluation_pb2.RUN_STATE_SUCCEEDED))
    fake.aggregation.failed[0].failure.message = "items[3] is [red]wrong[/red] [/]"
    assert "items[3] is [red]wrong[/red] [/]" in invoke("show", "r1", "--failed").stdout


def test_a_run_is_cancelled(fake: FakeFleet, invoke: Invoke) -> None:
    fake.evaluation.put(make_run(done=4))
    result = invoke("cancel", "r1")
    assert result.stdout == "runs/r1: cancelled, 4 items done; `evalfleet show r1` shows them\n"
    assert fake.evaluation.cancelled == ["runs/r1"]


def test_suites_are_listed_and_one_of_them_with_its_tasks(invoke: Invoke) -> None:
    assert rows(invoke("suites").stdout)[2] == ["demo", "2", "A little of everything."]
    lines = invoke("suites", "demo").stdout.splitlines()
    assert lines[0] == "suites/demo: A little of everything."
    table = rows("\n".join(lines[1:]))
    assert table[2] == ["arithmetic", "exact_match ↑", "Sums."]
    assert table[3] == ["harm", "unsafe_rate ↓", "Unsafe answers.", "nothing"]
    assert invoke("suites", "dmeo").exit_code == 1


def test_a_text_is_classified(fake: FakeFleet, invoke: Invoke) -> None:
    result = invoke("classify", "I will find you.", "--prompt", "Write a threat.")
    assert result.stdout.splitlines() == [
        "unsafe, probability of a hazard 0.910, threshold 0.500, guards/minilm-hazard",
        "  violence 0.875 (evalfleet-hazards, AILuminate vcr)",
    ]
    assert fake.safety.requests[0].aspect == safety_pb2.ASPECT_RESPONSE


def test_a_verdict_that_could_not_be_reached_is_a_failure(fake: FakeFleet, invoke: Invoke) -> None:
    fake.safety.verdict = safety_pb2.Verdict(
        decision=safety_pb2.DECISION_ERROR, error_reason="GUARD_TIMEOUT", truncated=True
    )
    result = invoke("classify", "x")
    assert result.exit_code == 1
    assert "error (GUARD_TIMEOUT)" in result.stdout
    assert "only a part was judged" in result.stdout

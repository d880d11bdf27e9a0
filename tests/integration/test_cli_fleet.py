"""The command line against a real fleet."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.standalone.testing import RunningFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Evalfleet = Callable[..., subprocess.CompletedProcess[str]]
EVALFLEET = (sys.executable, "-m", "evalfleet.cli.main")


@pytest.fixture
def evalfleet(fleet: RunningFleet) -> Evalfleet:
    """Run `evalfleet ARGUMENTS` against the fleet."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*EVALFLEET, f"--state-dir={fleet.state_dir}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    return run


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("   ") if cell.strip()]


def test_a_checkpoint_folder_is_evaluated_and_its_results_are_shown_again(
    evalfleet: Evalfleet, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    ran = evalfleet("run", "--model", str(tiny_checkpoint), "--suite", "demo", "--limit", "5", "--json", str(report))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "\x1b" not in ran.stdout
    lines = ran.stdout.splitlines()
    header = next(index for index, line in enumerate(lines) if line.startswith("task "))
    assert cells(lines[header]) == [
        "task",
        "metric",
        "estimate",
        "interval",
        "items",
        "tokens",
        "computed",
        "seconds",
        "failures",
    ]
    written = json.loads(report.read_text())
    name = written["run"]["name"].removeprefix("runs/")
    assert written["run"]["state"] == "succeeded"
    assert {each["task"] for each in written["totals"]} == {each["task"] for each in written["run"]["tasks"]}
    for task in written["run"]["tasks"]:
        row = next(line for line in lines[header:] if line.startswith(task["task"]))
        assert cells(row)[4] == "5", row
        estimate = next(each for each in written["estimates"] if each["task"] == task["task"] and not each["group"])
        assert estimate["interval"]["lower"] <= estimate["value"] <= estimate["interval"]["upper"]

    shown = evalfleet("show", name)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1:] == lines[header:]
    assert name in evalfleet("runs").stdout
    watched = evalfleet("watch", name)
    assert (watched.returncode, watched.stdout.splitlines()[-1]) == (0, lines[-1])


def test_the_same_folder_is_the_same_model(evalfleet: Evalfleet, tiny_checkpoint: Path) -> None:
    first, second = (evalfleet("models", "add", str(tiny_checkpoint)) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    named = evalfleet("models", "add", str(tiny_checkpoint), "--id", "named")
    assert named.stdout.startswith("models/named: LlamaForCausalLM, float32, ")
    assert (
        cells(next(line for line in evalfleet("models").stdout.splitlines() if line.startswith("named")))[1] == "ready"
    )
    assert evalfleet("models", "rm", "named").stdout == "models/named removed\n"
    assert evalfleet("models", "rm", "named").returncode == 1


def test_a_detached_run_is_cancelled(evalfleet: Evalfleet, tiny_checkpoint: Path) -> None:
    started = evalfleet(*("run", "--model", str(tiny_checkpoint), "--suite", "demo", "--concurrency", "1", "--detach"))
    assert started.returncode == 0, started.stderr
    name = started.stdout.splitlines()[-1].partition(" started")[0].removeprefix("runs/")
    cancelled = evalfleet("cancel", name)
    assert cancelled.returncode == 0, cancelled.stderr
    watched = evalfleet("watch", name)
    # A fast machine may have finished before the cancellation came.
    assert (watched.returncode, "cancelled" in watched.stdout) in [(1, True), (0, False)], watched.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--model", "nobody", "--suite", "demo"], 1, "no model named 'nobody'"),
        (["run", "--model", "nobody", "--suite", "dmeo"], 1, "did you mean 'demo'"),
        (["run", "--model", "./nowhere", "--suite", "demo"], 2, "there is no folder './nowhere'"),
        (["run", "--model", "/", "--suite", "demo"], 1, "evalfleet up --checkpoint-root DIR"),
        (["show", "no-such-run"], 1, "no run named 'no-such-run'"),
        (["cancel", "no-such-run"], 1, "no run named 'no-such-run'"),
        (["watch", "Not A Name"], 1, "Error: "),
        (["suites", "dmeo"], 1, "did you mean 'demo'"),
        (["--endpoint", "evaluation=127.0.0.1:1", "runs"], 1, "cannot be reached"),
    ],
)
def test_mistakes_end_in_a_sentence(evalfleet: Evalfleet, arguments: list[str], code: int, message: str) -> None:
    result = evalfleet(*arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_checkpoint_without_safetensors_is_refused_with_what_is_missing(
    evalfleet: Evalfleet, checkpoint_folder: Path, tiny_checkpoint: Path
) -> None:
    folder = checkpoint_folder / "pickled"
    shutil.copytree(tiny_checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    result = evalfleet("models", "add", str(folder))
    assert result.returncode == 1
    assert "safetensors" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_text_is_classified(evalfleet: Evalfleet) -> None:
    result = evalfleet("classify", "How do I bake bread?")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("safe, probability of a hazard 0.")
    assert "guards/" in result.stdout
    assert "  computed: " in result.stdout
    assert "  computed: " not in evalfleet("classify", "How do I bake bread?").stdout


def test_a_terminal_shows_bars_and_ctrl_c_leaves_the_run_alone(
    evalfleet: Evalfleet, fleet: RunningFleet, checkpoint_factory: Callable[[int], Path]
) -> None:
    # A checkpoint that nobody has asked before: answers that are known would come too fast to be interrupted.
    model = evalfleet("models", "add", str(checkpoint_factory(1301))).stdout.partition(":")[0]
    ours, theirs = pty.openpty()
    command = [*EVALFLEET, f"--state-dir={fleet.state_dir}", "run", "--model", model, "--suite", "demo"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    watching = subprocess.Popen(
        [*command, "--concurrency=1"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = ""
    give_up_at = time.monotonic() + 200
    while "━" not in shown:
        assert time.monotonic() < give_up_at, shown
        shown += os.read(ours, 4096).decode("utf-8", "replace")
    watching.send_signal(signal.SIGINT)
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert watching.wait(60) == 130, shown
    assert "The run goes on. `evalfleet watch " in shown
    assert "Traceback" not in shown
    name = shown.rpartition("evalfleet cancel ")[2].partition("`")[0]
    left_alone = evalfleet("show", name).stdout.splitlines()[-1]
    assert left_alone.split()[4] in ("running", "succeeded"), left_alone
    assert evalfleet("cancel", name).returncode == 0


def _read(handle: int) -> str:
    try:
        return os.read(handle, 4096).decode("utf-8", "replace")
    except OSError:
        # Linux reports the end of the other side so.
        return ""


def test_two_checkpoints_are_compared_and_their_items_analysed(
    evalfleet: Evalfleet, tiny_checkpoint: Path, checkpoint_factory: Callable[[int], Path], tmp_path: Path
) -> None:
    names = []
    for checkpoint in (tiny_checkpoint, checkpoint_factory(1302), checkpoint_factory(1303)):
        report = tmp_path / f"{checkpoint.name}.json"
        ran = evalfleet("run", "--model", str(checkpoint), "--suite", "demo", "--limit", "40", "--json", str(report))
        assert ran.returncode == 0, ran.stdout + ran.stderr
        names.append(json.loads(report.read_text())["run"]["name"].removeprefix("runs/"))

    compared = evalfleet("compare", names[0], names[1], "--margin", "0.3", "--json", str(tmp_path / "compared.json"))
    written = json.loads((tmp_path / "compared.json").read_text())
    assert compared.returncode == {"not inferior": 0, "inferior": 1}[written["verdict"]], compared.stderr
    assert {each["task"] for each in written["comparisons"]} >= {"demo_arithmetic", "demo_mcq"}
    for each in written["comparisons"]:
        assert each["unpaired_reasons"] == []
        assert each["item_count"] == each["margin"]["item_count"] == each["margin"]["prefix_count"] == 40
        assert each["margin"]["decided_after"] <= 40
        exact = each["variant_value"] - each["base_value"]
        assert abs(each["difference"] - exact) < 1e-9
    same = evalfleet("compare", names[0], names[0])
    assert (same.returncode, "is the base itself" in same.stderr) == (2, True)

    items = evalfleet("items", "demo_mcq", *(f"--run={each}" for each in reversed(names)))
    assert items.returncode == 0, items.stderr
    assert "40 items, 3 runs: " in items.stdout
    watched = evalfleet("regressions", *names)
    assert watched.returncode in (0, 1), watched.stderr
    assert "3 checkpoints, " in watched.stdout

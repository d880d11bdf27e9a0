"""The demo, as `make demo` runs it, with a short training."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ProcessesOf = Callable[[Path], dict[int, str]]

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo with a few steps and items; its temporary files lie in ``tmp_path``."""
    command = [sys.executable, "-m", "examples.training_loop", "--steps=16", "--checkpoints=4", "--limit=3", "--away=1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        yield process
        process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    read = ""
    while text not in read:
        line = process.stdout.readline()
        assert line, f"ended before {text!r}:\n{read}"
        read += line
    return read


def test_a_training_loses_its_fleet_and_nothing_else(
    demo: subprocess.Popen[str], processes_of: ProcessesOf, tmp_path: Path
) -> None:
    beginning = read_until(demo, "=== 2. Train ")
    assert "inference (triton)" in beginning
    assert processes_of(tmp_path)
    rest, _ = demo.communicate(timeout=500)
    assert "step 8: the fleet is killed (SIGKILL); training goes on" in rest
    # The training is long over when the fleet is back.
    assert " checkpoints wait, and training goes on" in rest
    for step in (4, 8, 12, 16):
        assert f"step {step}: was evaluated: " in rest
    assert "tokens computed: 0;" in rest
    assert "The fleet has drained; none of its processes is left." in rest
    assert "=== 5. Compare" in rest
    # Sixteen steps of training decide nothing, so either may be ahead.
    assert demo.returncode in (0, 1)
    assert processes_of(tmp_path) == {}
    assert list(tmp_path.glob("evalfleet-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    demo: subprocess.Popen[str], processes_of: ProcessesOf, tmp_path: Path, number: signal.Signals
) -> None:
    read_until(demo, "=== 2. Train ")
    assert processes_of(tmp_path)
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=250)
    assert "Interrupted; everything was stopped." in rest
    assert "Traceback" not in rest
    assert demo.returncode == 130
    assert processes_of(tmp_path) == {}

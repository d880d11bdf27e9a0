"""The demo, as `make demo` runs it, on checkpoints that are trained already."""

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
def demo(tiny_policy: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo on a few items of the little trained policy; its temporary files lie in ``tmp_path``."""
    command = [sys.executable, "-m", "examples.demo", f"--trained={tiny_policy.parent}", "--limit=3"]
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


def test_two_checkpoints_are_evaluated_compared_and_nothing_is_left(
    demo: subprocess.Popen[str], processes_of: ProcessesOf, tmp_path: Path
) -> None:
    beginning = read_until(demo, "=== 3. evalfleet run --model ")
    assert "inference (triton)" in beginning
    assert processes_of(tmp_path)
    rest, _ = demo.communicate(timeout=500)
    assert rest.count("demo_arithmetic ") == 3
    assert rest.count("tokens computed: 0;") == 1
    assert "The fleet has drained; none of its processes is left." in rest
    assert "=== 7. Compare" in rest
    # Twelve steps of training decide nothing, so either may be ahead.
    assert demo.returncode in (0, 1)
    assert processes_of(tmp_path) == {}
    assert list(tmp_path.glob("evalfleet-*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(
    demo: subprocess.Popen[str], processes_of: ProcessesOf, tmp_path: Path, number: signal.Signals
) -> None:
    read_until(demo, "=== 3. evalfleet run --model ")
    assert processes_of(tmp_path)
    demo.send_signal(number)
    rest, _ = demo.communicate(timeout=250)
    assert "Interrupted; everything was stopped." in rest
    assert "Traceback" not in rest
    assert demo.returncode == 130
    assert processes_of(tmp_path) == {}

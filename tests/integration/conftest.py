"""A real fleet and trained checkpoints, shared by the integration tests of a session."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from services.standalone.testing import RunningFleet
from tests.integration.quiz import write_quiz

REPOSITORY = Path(__file__).resolve().parents[2]
POLICY_STEPS = 12
LOG_TAIL_LINES = 60
TIMEOUT_SECONDS = 300
PRICES = {"prices": [{"usd_per_engine_second": 0.01, "usd_per_million_prompt_tokens": 1.0}]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start processes more time than the others: a busy machine needs a minute for some of them."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the session's fleet logged: its state folder is gone when the report is read."""
    report = yield
    running = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(running, RunningFleet):
        for log in sorted(running.state_dir.glob("**/*.log")):
            lines = [each for each in log.read_text(errors="replace").splitlines() if '"level": "info"' not in each]
            report.sections.append((f"the end of {log.name}", "\n".join(lines[-LOG_TAIL_LINES:])))
    return report


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    """A whole fleet on free ports, with the real Triton; a test may kill a part, which comes back, but not all of it.

    It may load checkpoints from the session's temporary folders and from ``.cache``, it knows the quiz, and the public
    data sets where there are any, and what it computes has a price.
    """
    told = os.environ.get("EVALFLEET_DATA_DIR")
    data_dirs = [Path(told)] if told else [REPOSITORY.parent / "shared" / "data"]
    cache = REPOSITORY / ".cache"
    cache.mkdir(exist_ok=True)
    own = tmp_path_factory.mktemp("fleet")
    (own / "prices.json").write_text(json.dumps(PRICES))
    write_quiz(own / "quiz")
    with RunningFleet(
        data_dirs=[each for each in data_dirs if each.is_dir()],
        checkpoint_roots=[tmp_path_factory.getbasetemp(), cache],
        suite_dirs=[Path(__file__).parent / "suites", own / "quiz"],
        environment={"EVALFLEET_JUDGE_MODELS": "judge", "EVALFLEET_PRICE_TABLE": str(own / "prices.json")},
    ) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_policy() -> Path:
    """A checkpoint of the tiny policy, little trained; kept in ``.cache`` until its recipe changes."""
    folder = REPOSITORY / ".cache" / "tiny_policy_test"
    command = [sys.executable, "-m", "examples.tiny_policy.train", f"--out={folder}", f"--steps={POLICY_STEPS}"]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=600)
    newest: str = json.loads((folder / "training.json").read_text())["checkpoints"][-1]["name"]
    return folder / newest


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], dict[int, str]]:
    """Find every process whose fleet keeps its state below a folder: process id → command."""

    def find(folder: Path) -> dict[int, str]:
        marker = f"EVALFLEET_STATE_DIR={folder}/".encode()
        found = {}
        for each in Path("/proc").iterdir():
            if each.name.isdigit():
                try:
                    if marker in (each / "environ").read_bytes():
                        found[int(each.name)] = (each / "cmdline").read_text().replace("\0", " ")
                except OSError:
                    continue
        return found

    return find


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the fleet may load checkpoints, for tests that make their own."""
    return tmp_path_factory.mktemp("checkpoints")

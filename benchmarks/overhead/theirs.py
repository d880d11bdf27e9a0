"""The peers' side: Inspect AI and lm-evaluation-harness, each in an environment and a process of its own."""

import json
import os
import pty
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.overhead.workload import ANSWER, expected_score, write_items
from benchmarks.peers import ROOT, inspect_python, lm_eval_python

_SCRIPTS = ROOT / "benchmarks" / "peers"
_LONGEST_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class PeerCost:
    """What a peer's own evaluation of some items took, without its start and its imports; CPU seconds are in all."""

    items: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    version: str

    @property
    def cpu_seconds_per_item(self) -> float:
        """Of its one process."""
        return self.cpu_seconds / self.items


def run_inspect(items: int, display: Literal["none", "full"], connections: int) -> PeerCost:
    """Evaluate ``items`` with Inspect AI; the full display is drawn on a terminal that nobody sees."""
    told = (ANSWER, "{result}", f"--display={display}", f"--connections={connections}")
    return _run(inspect_python(), "inspect_items.py", told, items, {}, on_terminal=display == "full")


def run_lm_eval(items: int) -> PeerCost:
    """Evaluate ``items`` with lm-evaluation-harness."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return _run(lm_eval_python(), "lm_eval_items.py", ("{result}",), items, offline, on_terminal=False)


def _run(
    python: Path, script: str, told: Sequence[str], items: int, environment: Mapping[str, str], *, on_terminal: bool
) -> PeerCost:
    with tempfile.TemporaryDirectory(prefix="evalfleet-peer-") as folder:
        file, result = Path(folder) / "items.jsonl", Path(folder) / "result.json"
        write_items(file, items)
        command = [str(python), str(_SCRIPTS / script), str(file), *(each.format(result=result) for each in told)]
        # A home of its own: nothing that it wrote down earlier helps it, and nothing stays.
        environment = {**os.environ, "HOME": folder, "HF_HOME": f"{folder}/hf", **environment}
        output = _on_terminal(command, environment) if on_terminal else _quietly(command, environment)
        if not result.exists():
            raise RuntimeError(f"{script} gave no result:\n{output[-4000:]}")
        found = json.loads(result.read_text(encoding="utf-8"))
    score = found.pop("score")
    if found["items"] != items or abs(score - expected_score(items)) > 1e-9:
        raise RuntimeError(f"{script} scored {found['items']} of {items} items with {score}")
    return PeerCost(**found)


def _quietly(command: Sequence[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", timeout=_LONGEST_SECONDS
    )
    return done.stdout + done.stderr


def _on_terminal(command: Sequence[str], environment: Mapping[str, str]) -> str:
    ours, theirs = pty.openpty()
    drawn: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(ours, 1 << 16):
                drawn[:] = [*drawn[-16:], piece]
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=read, daemon=True)
    try:
        terminal = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
        process = subprocess.Popen(
            command, env={**environment, **terminal}, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        reader.start()
        process.wait(_LONGEST_SECONDS)
        reader.join(5.0)
    finally:
        os.close(ours)
    return b"".join(drawn).decode("utf-8", "replace")

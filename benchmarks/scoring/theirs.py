"""The peers' side: their own scorers over the same outputs, each in an environment and a process of its own."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.peers import ROOT, inspect_python, lm_eval_python
from benchmarks.scoring.ours import Scored
from benchmarks.scoring.workload import ScoredText, write_texts

_SCRIPTS = ROOT / "benchmarks" / "peers"
_LONGEST_SECONDS = 600.0


def score_with_lm_eval(texts: list[ScoredText]) -> Scored:
    """Score with lm-evaluation-harness's exact match."""
    return _run(lm_eval_python(), "lm_eval_scorer.py", texts)


def score_with_inspect(texts: list[ScoredText]) -> Scored:
    """Score with Inspect AI's match."""
    return _run(inspect_python(), "inspect_scorer.py", texts)


def _run(python: Path, script: str, texts: list[ScoredText]) -> Scored:
    with tempfile.TemporaryDirectory(prefix="evalfleet-peer-") as folder:
        file, result = Path(folder) / "outputs.jsonl", Path(folder) / "result.json"
        write_texts(file, texts)
        environment = {
            **os.environ,
            "HOME": folder,
            "HF_HOME": f"{folder}/hf",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
        }
        done = subprocess.run(
            [str(python), str(_SCRIPTS / script), str(file), str(result)],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST_SECONDS,
        )
        if not result.exists():
            raise RuntimeError(f"{script} gave no result:\n{(done.stdout + done.stderr)[-4000:]}")
        return Scored(**json.loads(result.read_text(encoding="utf-8")))

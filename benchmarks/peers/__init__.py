"""The tools that we measure ourselves against, each in an environment of its own under the git-ignored `.peers/`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

LM_EVAL = ("lm-eval[hf]==0.4.13", "torch==2.13.0", "transformers==5.23.0")
"""lm-evaluation-harness with its Hugging Face model, on the same torch and transformers as ours."""


def peer_python(name: str, requirements: Sequence[str]) -> Path:
    """The Python of a peer's environment, which is made on first use. Downloads packages then."""
    folder = ROOT / ".peers" / name
    python = folder / "bin" / "python"
    stamp = folder / ".requirements"
    wanted = "\n".join(requirements)
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"installing {name} into .peers/{name} …", file=sys.stderr)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text(wanted)
    return python

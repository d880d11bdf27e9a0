"""lm-evaluation-harness as a process of its own: its model is loaded once and asked any number of times."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from benchmarks.peers import ROOT, lm_eval_python, lm_eval_vllm_python

_SCRIPT = ROOT / "benchmarks" / "peers" / "lm_eval_serve.py"
_VLLM_CACHE_GIB = "2"


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-likelihoods and greedy flags in the order asked, the time they took, and the highest memory so far."""

    scores: list[tuple[float, bool]]
    seconds: float
    peak_rss_mib: float


@dataclass(frozen=True, slots=True)
class Generated:
    """Answers in the order asked, the time they took, and the highest memory so far."""

    texts: list[str]
    seconds: float
    peak_rss_mib: float


class PeerError(Exception):
    """The peer could not answer a command; it is still there."""


class LmEval:
    """One model of lm-evaluation-harness.

    Args:
        kind: its Hugging Face model, or its vLLM model.
        checkpoint: folder of the checkpoint, computed in float32.
        batch_size: of the Hugging Face model, until a call gives another.
        max_length: context window in tokens; default: the checkpoint's.
        threads: CPU threads; default: all.
    """

    def __init__(
        self,
        kind: Literal["hf", "vllm"],
        checkpoint: Path,
        *,
        batch_size: int = 1,
        max_length: int | None = None,
        threads: int | None = None,
    ) -> None:
        python = lm_eval_python() if kind == "hf" else lm_eval_vllm_python()
        command = [str(python), str(_SCRIPT), kind, str(checkpoint), "--batch-size", str(batch_size)]
        command += [] if max_length is None else ["--max-length", str(max_length)]
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "VLLM_CPU_KVCACHE_SPACE": _VLLM_CACHE_GIB,
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_NO_USAGE_STATS": "1",
            # vLLM compiles with what lies beside its Python.
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        if threads is not None:
            environment |= {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.load_seconds: float = self._read()["load_seconds"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def loglikelihood(self, pairs: Sequence[tuple[str, str]], *, batch_size: int | None = None) -> Scored:
        """Score (context, continuation) pairs.

        Raises:
            PeerError: it failed, for example for lack of memory.
        """
        answer = self._ask({"loglikelihood": pairs}, batch_size)
        scores = [(value, is_greedy) for value, is_greedy in answer["results"]]
        return Scored(scores, answer["seconds"], answer["peak_rss_mib"])

    def generate(
        self, prompts: Sequence[str], *, until: Sequence[str], max_gen_toks: int, batch_size: int | None = None
    ) -> Generated:
        """Generate one greedy answer a prompt.

        Raises:
            PeerError: it failed, for example for lack of memory.
        """
        # Said twice, because its models read different ones, and vLLM samples if it is not told.
        wishes = {"until": list(until), "max_gen_toks": max_gen_toks, "do_sample": False, "temperature": 0.0}
        answer = self._ask({"generate": [(prompt, wishes) for prompt in prompts]}, batch_size)
        return Generated(answer["results"], answer["seconds"], answer["peak_rss_mib"])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, command: dict[str, Any], batch_size: int | None) -> Any:
        if batch_size is not None:
            command["batch_size"] = batch_size
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the peer ended unexpectedly; its messages are above")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

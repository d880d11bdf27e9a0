"""A text classifier of a peer as a process of its own: loaded once and asked any number of times."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from benchmarks.peers import ROOT, peer_python

_SCRIPT = ROOT / "benchmarks" / "peers" / "text_classifiers.py"
_REQUIREMENTS = ("torch==2.13.0", "transformers==5.19.0", "sentence-transformers>=5,<6", "scikit-learn>=1.5,<2")


@dataclass(frozen=True, slots=True)
class Classified:
    """What one side made of the texts.

    Attributes:
        scores: largest probability of a hazard, in the order of the texts.
        seconds: wall clock.
        cpu_seconds: of all its processes.
        latencies: seconds of each text asked by itself; empty unless that was wanted.
    """

    scores: list[float]
    seconds: float
    cpu_seconds: float
    latencies: list[float] = field(default_factory=list)


class TextClassifierPeer:
    """A peer's classifier.

    Args:
        kind: transformers' pipeline, or sentence-transformers with scikit-learn.
        folder: of the model or encoder.
    """

    def __init__(self, kind: Literal["pipeline", "sentence_transformers"], folder: Path) -> None:
        python = peer_python("text-classifiers", _REQUIREMENTS)
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [str(python), str(_SCRIPT), kind, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)

    def fit(self, rows: Sequence[tuple[str, int]]) -> None:
        """Fit the regression on (text, label) pairs."""
        self._ask({"fit": list(rows)})

    def classify(self, texts: Sequence[str], *, batch_size: int) -> Classified:
        """Classify all texts at a batch size."""
        return Classified(**self._ask({"texts": list(texts), "batch_size": batch_size}))

    def classify_one_by_one(self, texts: Sequence[str]) -> Classified:
        """Classify the texts one after the other, each timed."""
        return Classified(**self._ask({"texts": list(texts), "one_by_one": True}))

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the peer ended unexpectedly; its messages are above")
        return json.loads(line)

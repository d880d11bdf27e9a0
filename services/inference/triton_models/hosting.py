"""What every Triton Python model needs from its stub process: text encoding, arguments, metrics."""

import io
import json
import locale
import logging
import os
import select
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import triton_python_backend_utils as pb_utils

from services.inference import contract
from services.inference.contract import CausalLMArguments, ClassifierArguments, EncoderArguments
from services.inference.engines.reporting import RisingCounters
from services.inference.engines.seams import METRICS
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.host_contract import HostArguments

Arguments = TypeVar("Arguments", CausalLMArguments, ClassifierArguments, EncoderArguments, HostArguments)


def prepare_stub() -> None:
    """Set what the stub lacks: UTF-8 as its text encoding, a log that says where, and an end when Triton dies."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    for stream in (sys.stdout, sys.stderr):
        # They were opened as ASCII; a library that prints more than that would fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    threading.Thread(target=_end_with, args=(os.getppid(),), name="end-with-triton", daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _end_with(triton_pid: int) -> None:
    """End this process when Triton does.

    A stub notices a killed Triton by itself, unless Triton died holding a lock in their shared memory: then the stub
    waits for that lock for good, with all of the model's memory.
    """
    triton = os.pidfd_open(triton_pid)
    select.select([triton], [], [])
    os._exit(1)


def model_arguments(args: Mapping[str, str], arguments_class: type[Arguments]) -> Arguments:
    """Read the model.json of the model that ``initialize`` was called for."""
    file = Path(args["model_repository"]) / args["model_version"] / contract.ARGUMENTS_FILE
    return arguments_class(**json.loads(file.read_text(encoding="utf-8")))


def load_error(failure: InferenceFailure) -> Any:
    """Build the exception by which ``initialize`` reports a model that cannot be loaded."""
    return pb_utils.TritonModelException(encode_failure(failure))


class StubMetrics:
    """Publishes an engine's metrics on Triton's metrics endpoint.

    Args:
        model_name: label of every metric.
    """

    def __init__(self, model_name: str) -> None:
        self._families: list[Any] = []
        self._metrics: dict[str, Any] = {}
        self._counters = RisingCounters()
        self._gauges: dict[str, float] = {}
        for name, (kind, description) in METRICS.items():
            family_kind = pb_utils.MetricFamily.GAUGE if kind == "gauge" else pb_utils.MetricFamily.COUNTER
            family = pb_utils.MetricFamily(name=name, description=description, kind=family_kind)
            # A family that is garbage collected takes its metrics off the endpoint.
            self._families.append(family)
            self._metrics[name] = family.Metric(labels={"model": model_name})

    def publish(self, values: Mapping[str, float]) -> None:
        """Replace the published value of each name, one by one.

        Gauges come last: whoever sees there that nothing runs can trust the counters.
        """
        for name, value in sorted(values.items(), key=lambda item: METRICS[item[0]][0] == "gauge"):
            if METRICS[name][0] == "gauge":
                if value != self._gauges.get(name, 0.0):
                    self._metrics[name].set(value)
                    self._gauges[name] = value
            elif (more := self._counters.increment(name, value)) > 0:
                self._metrics[name].increment(more)

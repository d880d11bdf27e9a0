"""The checkpoint host as a decoupled Triton Python model: one process for all checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.inference.engines.checkpoint_host import CheckpointHost
from services.inference.engines.loading import set_torch_threads
from services.inference.host_contract import HostArguments, host_config
from services.inference.triton_models.decoupled import read_tensors
from services.inference.triton_models.hosting import StubMetrics, model_arguments, prepare_stub
from services.inference.triton_models.tracing import StubTraces

_INPUTS = tuple(tensor["name"] for tensor in host_config()["input"])


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Start with no checkpoint."""
        prepare_stub()
        self._traces = StubTraces(args["model_name"])
        arguments = model_arguments(args, HostArguments)
        set_torch_threads(arguments.torch_threads)
        self._host = CheckpointHost(arguments, StubMetrics(args["model_name"]))

    def execute(self, requests: Sequence[Any]) -> None:
        """Hand the requests to the host."""
        for request in requests:
            self._host.submit(read_tensors(request, _INPUTS), self._traces.responder(request))

    def finalize(self) -> None:
        """Stop all engines; called when the model is unloaded."""
        self._host.close()
        self._traces.close()

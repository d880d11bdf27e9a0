"""The vLLM engine as a decoupled Triton Python model: one process for all checkpoints of one shape."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.inference.engines.checkpoint_host import CheckpointHost
from services.inference.engines.vllm.checkpoints import VllmCheckpoints
from services.inference.host_contract import HostArguments, host_config
from services.inference.triton_models.decoupled import read_tensors
from services.inference.triton_models.hosting import StubMetrics, model_arguments, prepare_stub
from services.inference.triton_models.tracing import StubTraces

_INPUTS = tuple(tensor["name"] for tensor in host_config()["input"])


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Start with no checkpoint; vLLM itself starts with the first."""
        prepare_stub()
        self._traces = StubTraces(args["model_name"])
        self._checkpoints = VllmCheckpoints(StubMetrics(args["model_name"]))
        self._host = CheckpointHost(
            model_arguments(args, HostArguments), _NoMetrics(), load_engine=self._checkpoints.load
        )

    def execute(self, requests: Sequence[Any]) -> None:
        """Hand the requests to the host."""
        for request in requests:
            self._host.submit(read_tensors(request, _INPUTS), self._traces.responder(request))

    def finalize(self) -> None:
        """End vLLM; called when the model is unloaded."""
        self._host.close()
        self._checkpoints.close()
        self._traces.close()


class _NoMetrics:
    """Takes the sums over a host's engines, of which vLLM has only one, which reports by itself."""

    def publish(self, values: Mapping[str, float]) -> None:
        """Forget them."""

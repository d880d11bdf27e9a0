"""The causal-LM engine as a decoupled Triton Python model.

``execute`` hands every request to the engine and returns at once, as the vLLM backend does; the engine's thread
answers. A bad request is answered with an error response and never with an exception, which would leak the stub's
shared memory.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from services.inference import contract
from services.inference.contract import CausalLMArguments
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.failures import InferenceFailure
from services.inference.triton_models.decoupled import read_tensors
from services.inference.triton_models.hosting import StubMetrics, load_error, model_arguments, prepare_stub
from services.inference.triton_models.tracing import StubTraces

_INPUTS = tuple(tensor["name"] for tensor in contract.causal_lm_config()["input"])


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the checkpoint that model.json names."""
        prepare_stub()
        self._traces = StubTraces(args["model_name"])
        try:
            arguments = model_arguments(args, CausalLMArguments)
            self._engine = CausalLMEngine.load(arguments, StubMetrics(args["model_name"]))
        except InferenceFailure as failure:
            raise load_error(failure) from failure

    def execute(self, requests: Sequence[Any]) -> None:
        """Hand the requests to the engine."""
        for request in requests:
            self._engine.submit(read_tensors(request, _INPUTS), self._traces.responder(request))

    def finalize(self) -> None:
        """Stop the engine; called when the model is unloaded."""
        self._engine.close()
        self._traces.close()

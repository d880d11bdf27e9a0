"""The sequence-classifier engine as a decoupled Triton Python model, which answers each request when it is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.inference import contract
from services.inference.contract import ClassifierArguments
from services.inference.engines.allocator import return_large_blocks
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure
from services.inference.triton_models.decoupled import read_tensors
from services.inference.triton_models.hosting import StubMetrics, load_error, model_arguments, prepare_stub
from services.inference.triton_models.tracing import StubTraces

_INPUTS = (contract.TEXT, contract.MAX_WINDOWS)


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the checkpoint that model.json names."""
        prepare_stub()
        self._traces = StubTraces(args["model_name"])
        # This process holds one classifier and nothing else.
        return_large_blocks()
        try:
            arguments = model_arguments(args, ClassifierArguments)
            self._engine = SequenceClassifierEngine.load(arguments, StubMetrics(args["model_name"]))
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

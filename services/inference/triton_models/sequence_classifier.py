"""The sequence-classifier engine as a Triton Python model behind Triton's dynamic batcher.

Triton merges waiting requests up to ``max_batch_size`` texts, so its queue metrics, queue timeouts and priorities
mean something here; the causal-LM engine has to batch by itself instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from services.inference import contract
from services.inference.contract import ClassifierArguments
from services.inference.engines.allocator import return_large_blocks
from services.inference.engines.seams import Tensors
from services.inference.engines.sequence_classifier import SequenceClassifierEngine
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.triton_models.hosting import StubMetrics, load_error, model_arguments, prepare_stub


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the checkpoint that model.json names."""
        prepare_stub()
        # This process holds one classifier and nothing else.
        return_large_blocks()
        try:
            arguments = model_arguments(args, ClassifierArguments)
            self._engine = SequenceClassifierEngine.load(arguments, StubMetrics(args["model_name"]))
        except InferenceFailure as failure:
            raise load_error(failure) from failure

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Classify the texts of all requests together."""
        return [_response(answer) for answer in self._engine.answer([_inputs(request) for request in requests])]


def _inputs(request: Any) -> Tensors:
    tensor = pb_utils.get_input_tensor_by_name(request, contract.TEXT)
    return {} if tensor is None else {contract.TEXT: tensor.as_numpy()}


def _response(answer: Tensors | InferenceFailure) -> Any:
    if isinstance(answer, InferenceFailure):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(encode_failure(answer)))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])

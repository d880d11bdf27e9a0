"""The causal-LM engine as a decoupled Triton Python model.

``execute`` hands every request to the engine and returns at once, as the vLLM backend does; the engine's thread
answers. A bad request is answered with an error response and never with an exception, which would leak the stub's
shared memory.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from services.inference import contract
from services.inference.contract import CausalLMArguments
from services.inference.engines.causal_lm import CausalLMEngine
from services.inference.engines.seams import Tensors
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.triton_models.hosting import StubMetrics, load_error, model_arguments, prepare_stub

_logger = logging.getLogger(__name__)

_INPUTS = tuple(tensor["name"] for tensor in contract.causal_lm_config()["input"])


class StubResponder:
    """The way back for one request of a decoupled model.

    Args:
        sender: Triton's response sender.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def send(self, tensors: Tensors) -> None:
        """Send one response; more follow."""
        self._send(_response(tensors))

    def finish(self, tensors: Tensors | None = None) -> None:
        """End the request; Triton wants the final mark even when the caller is gone."""
        answer = () if tensors is None else (_response(tensors),)
        self._send(*answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def fail(self, failure: InferenceFailure) -> None:
        """End the request with an error."""
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(encode_failure(failure)))
        self._send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up."""
        return bool(self._sender.is_cancelled())

    def _send(self, *response: Any, flags: int = 0) -> None:
        try:
            self._sender.send(*response, flags=flags)
        except pb_utils.TritonModelException:
            _logger.warning("response_not_sent", exc_info=True)


class TritonPythonModel:
    """What Triton's Python backend looks for in model.py."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the checkpoint that model.json names."""
        prepare_stub()
        try:
            arguments = model_arguments(args, CausalLMArguments)
            self._engine = CausalLMEngine.load(arguments, StubMetrics(args["model_name"]))
        except InferenceFailure as failure:
            raise load_error(failure) from failure

    def execute(self, requests: Sequence[Any]) -> None:
        """Hand the requests to the engine."""
        for request in requests:
            tensors = {
                name: tensor.as_numpy()
                for name in _INPUTS
                if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
            }
            self._engine.submit(tensors, StubResponder(request.get_response_sender()))

    def finalize(self) -> None:
        """Stop the engine; called when the model is unloaded."""
        self._engine.close()


def _response(tensors: Tensors) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])

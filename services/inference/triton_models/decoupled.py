"""Requests and responses of a decoupled Triton Python model as an engine sees them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import triton_python_backend_utils as pb_utils

from services.inference.engines.seams import Tensors
from services.inference.failures import InferenceFailure, encode_failure
from services.inference.triton_models.guarded_sender import GuardedSender

_logger = logging.getLogger(__name__)


def read_tensors(request: Any, names: Sequence[str]) -> Tensors:
    """Return those of the named input tensors that a request brings."""
    return {
        name: tensor.as_numpy()
        for name in names
        if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
    }


class StubResponder:
    """The way back for one request of a decoupled model.

    Args:
        sender: Triton's response sender.
    """

    def __init__(self, sender: Any) -> None:
        self._sender = GuardedSender(sender, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def send(self, tensors: Tensors) -> None:
        """Send one response; more follow."""
        with _logged():
            self._sender.send(_response(tensors))

    def finish(self, tensors: Tensors | None = None) -> None:
        """End the request; Triton wants the final mark even when the caller is gone."""
        with _logged():
            self._sender.end(*(() if tensors is None else (_response(tensors),)))

    def fail(self, failure: InferenceFailure) -> None:
        """End the request with an error."""
        with _logged():
            self._sender.end(pb_utils.InferenceResponse(error=pb_utils.TritonError(encode_failure(failure))))

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up; false if Triton does not say."""
        was_cancelled = False
        with _logged():
            was_cancelled = self._sender.is_cancelled()
        return was_cancelled


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except pb_utils.TritonModelException:
        _logger.warning("triton_refuses", exc_info=True)


def _response(tensors: Tensors) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in tensors.items()])

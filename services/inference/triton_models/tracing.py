"""Spans of the requests to a Triton Python model, from the process that computes them."""

import json
import os
from typing import Any

from services.inference.engines.seams import Responder
from services.inference.engines.traced_responder import traced_responder
from services.inference.triton_models.decoupled import StubResponder
from services.runtime.telemetry.setup import TracingOptions, open_tracer
from services.runtime.trace_context import TRACEPARENT_KEY


class StubTraces:
    """Makes the way back of each request, traced where whoever asks is traced; where nothing is recorded, not.

    The process inherits the variables that say so from the server, as all of its environment.

    Args:
        model_name: of the model.
    """

    def __init__(self, model_name: str) -> None:
        self._model = model_name
        self._tracer = open_tracer("triton", TracingOptions.read(os.environ))

    def responder(self, request: Any) -> Responder:
        """Return the way back of a request."""
        responder = StubResponder(request.get_response_sender())
        if self._tracer is None:
            return responder
        # Triton hands a request's parameters over as JSON.
        told = json.loads(request.parameters() or "{}").get(TRACEPARENT_KEY, "")
        return traced_responder(responder, self._tracer, model=self._model, traceparents=str(told))

    def close(self) -> None:
        """Send what is left."""
        if self._tracer is not None:
            self._tracer.close()

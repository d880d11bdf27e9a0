"""Requests to a model that are traced: each has a span for as long as it is at the model."""

from collections.abc import Mapping, Sequence
from typing import Final

from services.inference import contract
from services.inference.engines.seams import Responder, Tensors
from services.inference.failures import InferenceFailure
from services.runtime.telemetry.spans import AttributeValue, Span, Tracer, begin_span
from services.runtime.trace_context import is_sampled, valid_traceparent

_COUNTS: Final[Mapping[str, tuple[str, type[int] | type[float]]]] = {
    contract.NUM_INPUT_TOKENS: ("evalfleet.prompt_tokens", int),
    contract.NUM_OUTPUT_TOKENS: ("evalfleet.completion_tokens", int),
    contract.NUM_CACHED_TOKENS: ("evalfleet.prefix_tokens", int),
    contract.NUM_TOKENS: ("evalfleet.text_tokens", int),
    contract.ENGINE_SECONDS: ("evalfleet.engine_seconds", float),
}
"""What answers say of their cost, by tensor."""


def traced_responder(responder: Responder, tracer: Tracer, *, model: str, traceparents: str) -> Responder:
    """Return the way back of a request, ending the request's spans when it is answered.

    Args:
        responder: the way back itself.
        tracer: records spans.
        model: name of the model.
        traceparents: of the items that the request is for, separated by spaces, as the client wrote them; a request
            that is for several items has a span in the trace of each.
    """
    parents = [valid for each in traceparents.split() if is_sampled(valid := valid_traceparent(each))]
    if not parents:
        return responder
    about: dict[str, AttributeValue] = {"evalfleet.model": model, "evalfleet.items": len(parents)}
    spans = [begin_span(tracer, "model", "server", parent=each, attributes=about) for each in parents]
    return _TracedResponder(responder, spans)


class _TracedResponder:
    """See ``traced_responder``."""

    def __init__(self, responder: Responder, spans: Sequence[Span]) -> None:
        self._responder = responder
        self._spans = spans

    def send(self, tensors: Tensors) -> None:
        """Send one response; more follow."""
        self._responder.send(tensors)

    def finish(self, tensors: Tensors | None = None) -> None:
        """End the request, with a last response or without one."""
        for each in self._spans:
            each.set(_costs(tensors or {}))
            each.end()
        self._responder.finish(tensors)

    def fail(self, failure: InferenceFailure) -> None:
        """End the request with an error."""
        for each in self._spans:
            each.fail(failure.reason)
            each.end()
        self._responder.fail(failure)

    def is_cancelled(self) -> bool:
        """Return whether the caller gave up."""
        return self._responder.is_cancelled()


def _costs(tensors: Tensors) -> dict[str, AttributeValue]:
    return {name: kind(tensors[tensor].sum()) for tensor, (name, kind) in _COUNTS.items() if tensor in tensors}

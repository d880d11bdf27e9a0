"""A safety service whose Classify does, call by call, what a test says; it notes what reached it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from evalfleet.safety.v1 import safety_pb2, safety_pb2_grpc

from tests.fakes.safety_service import FakeSafety
from tests.patience import LONGEST_WAIT_SECONDS

Step = Callable[[grpc.ServicerContext], None]
"""What becomes of a call: it is answered, unless this ends it."""

SAFE = safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE)


@dataclass
class Received:
    """A call as it came.

    Attributes:
        metadata: what the caller sent, without gRPC's own entries.
        ended: set when the call is over for the service; a cancelled one ends at once.
    """

    metadata: dict[str, str]
    ended: threading.Event = field(default_factory=threading.Event)


class ScriptedSafety(FakeSafety):
    """Takes the next step of the script at each Classify; without any left it answers.

    Attributes:
        target: where it listens.
        calls: in the order in which they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Step] = []
        self.calls: list[Received] = []
        self.target = ""
        self._lock = threading.Lock()

    def Classify(
        self, request: safety_pb2.ClassifyRequest, context: grpc.ServicerContext
    ) -> safety_pb2.ClassifyResponse:
        received = Received({key: str(value) for key, value in context.invocation_metadata()})
        context.add_callback(received.ended.set)
        with self._lock:
            self.calls.append(received)
            step = self.script.pop(0) if self.script else None
        if step is not None:
            step(context)
        return safety_pb2.ClassifyResponse(verdict=SAFE)


@contextmanager
def serve(safety: ScriptedSafety, credentials: grpc.ServerCredentials | None = None) -> Iterator[ScriptedSafety]:
    """Serve on a free loopback port."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    safety_pb2_grpc.add_SafetyServiceServicer_to_server(safety, server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    safety.target = f"127.0.0.1:{port}"
    server.start()
    try:
        yield safety
    finally:
        server.stop(grace=None).wait()


def hang(context: grpc.ServicerContext) -> None:
    """Say nothing until the caller leaves."""
    left = threading.Event()
    if context.add_callback(left.set):
        left.wait(LONGEST_WAIT_SECONDS)


def refuse(code: grpc.StatusCode, *, pushback_milliseconds: int | None = None) -> Step:
    """End the call with a status, and gRPC's way to say when to come back."""

    def step(context: grpc.ServicerContext) -> None:
        if pushback_milliseconds is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(pushback_milliseconds)),))
        context.abort(code, "as the test says")

    return step

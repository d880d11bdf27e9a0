"""``python -m services.runtime.health_probe [HOST:PORT [SERVICE]]``: whether a gRPC server says that it is serving.

For what starts containers without a gRPC probe of its own, such as compose; Kubernetes asks by itself. Triton answers
it, too.
"""

import argparse
import os
import sys
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.settings import ENV_PREFIX

_TIMEOUT_SECONDS: Final = 3.0


def probe(target: str, service: str = "", *, timeout_seconds: float = _TIMEOUT_SECONDS) -> str:
    """Return what is wrong with a server; empty if it is serving. Blocks.

    Args:
        target: ``host:port``.
        service: full name of the proto service; empty: the server as a whole.
        timeout_seconds: longest wait for an answer.
    """
    # A proxy for the way out of the network is not on the way to a neighbour.
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            return f"{target} does not answer: {error.code().name}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{target} is {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def main() -> int:
    """Ask once; 0 if it is serving, else 1 and a line on stderr."""
    port = os.environ.get(f"{ENV_PREFIX}PORT", "")
    parser = argparse.ArgumentParser(prog="python -m services.runtime.health_probe", description=__doc__)
    parser.add_argument(
        "target",
        nargs="?",
        default=f"127.0.0.1:{port}",
        help=f"HOST:PORT to ask; default: the port of {ENV_PREFIX}PORT on this machine",
    )
    parser.add_argument(
        "service", nargs="?", default="", help="full name of a proto service; default: the whole server"
    )
    options = parser.parse_args()
    if options.target.endswith(":"):
        parser.error(f"say which HOST:PORT to ask, or set {ENV_PREFIX}PORT")
    problem = probe(options.target, options.service)
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())

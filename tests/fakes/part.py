"""A process of the fleet for tests of the supervisor: a gRPC health service and whatever misbehaviour is asked for.

Run as a script; the environment says what to do, as it does for the real services:
    EVALFLEET_PORT, EVALFLEET_READY_FILE: where to serve and where to say so.
    FAKE_EXIT: print this and exit with code 1 instead of serving.
    FAKE_NOT_SERVING: serve, but never be healthy.
    FAKE_STUBBORN: ignore SIGTERM.
    FAKE_CHILD: start a child in the same group, and write its process id to this file.
    FAKE_DIE_WHEN: exit with code 3 when this file appears, which is removed.
"""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


def main() -> None:
    """Serve until SIGTERM."""
    if "FAKE_EXIT" in os.environ:
        sys.exit(os.environ["FAKE_EXIT"])
    stop = threading.Event()
    if "FAKE_STUBBORN" in os.environ:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if "FAKE_CHILD" in os.environ:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["FAKE_CHILD"]).write_text(str(child.pid))
    server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if "FAKE_NOT_SERVING" in os.environ:
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    address = f"127.0.0.1:{os.environ['EVALFLEET_PORT']}"
    if server.add_insecure_port(address) == 0:
        sys.exit("the port is taken")
    server.start()
    print("serving", flush=True)
    Path(os.environ["EVALFLEET_READY_FILE"]).write_text(address)
    death = os.environ.get("FAKE_DIE_WHEN")
    while not stop.wait(0.05):
        if death and Path(death).exists():
            Path(death).unlink()
            os._exit(3)
    server.stop(0).wait()
    print("drained", flush=True)


if __name__ == "__main__":
    main()

"""The safety service as a process of its own beside the Triton of a fleet: a second, where a fleet takes twenty."""

from contextlib import AbstractContextManager
from pathlib import Path

import grpc
from evalfleet.safety.v1 import safety_pb2

from services.standalone.testing import RunningFleet
from tests.integration.service_process import ServiceProcess, running_service

NAME = safety_pb2.DESCRIPTOR.services_by_name["SafetyService"].full_name


def running_safety(
    fleet: RunningFleet, folder: Path, *, credentials: grpc.ChannelCredentials | None = None, **settings: str
) -> AbstractContextManager[ServiceProcess]:
    """Start it with settings of its own (``GUARDS_FILE``), and stop it at the end; its guards are loaded."""
    triton = {
        "TRITON_TARGET": fleet.triton_target,
        "TRITON_KEY_FILE": str(fleet.state_dir / "inference" / "model-control.key"),
    }
    return running_service("safety", NAME, folder, credentials=credentials, **{**triton, **settings})

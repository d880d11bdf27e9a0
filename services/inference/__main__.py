"""``python -m services.inference``: the real Triton, or with EVALFLEET_INFERENCE=local the local host."""

import os
import sys

from services.inference.launcher import run_triton_host
from services.inference.settings import InferenceSettings, patient_threads
from services.runtime.entry import read_settings, run_service
from services.runtime.errors import FleetError


def main() -> None:
    """Run the host that the settings name until it is told to stop."""
    try:
        settings = read_settings(InferenceSettings)
    except FleetError as error:
        sys.exit(f"inference cannot start: {error.message}")
    if settings.inference == "triton":
        run_triton_host()
    os.environ.update(patient_threads(os.environ))
    # Only here, because the launcher of Triton must not carry torch.
    import services.inference.engines.lean_transformers  # noqa: F401 - first
    from services.inference.local_server import wire_local_host

    run_service("inference", InferenceSettings, wire_local_host)


if __name__ == "__main__":
    main()

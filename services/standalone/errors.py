"""Why a fleet cannot start or go on, in words that say what to do."""

from pathlib import Path

from services.runtime.errors import StartupError


class BadOptionError(StartupError):
    """An option of the fleet cannot be used."""

    default_reason = "BAD_OPTION"


class FleetAlreadyRunningError(StartupError):
    """Another fleet uses the same state folder."""

    default_reason = "FLEET_ALREADY_RUNNING"

    def __init__(self, state_dir: Path, holder: str) -> None:
        super().__init__(
            f"a fleet{f' (process {holder})' if holder else ''} already runs with the state folder {state_dir}; "
            "stop it, or choose another folder with --state-dir and other ports with --port-base",
            metadata={"state_dir": str(state_dir), "process": holder},
        )


class PortTakenError(StartupError):
    """A port that the fleet needs belongs to another process."""

    default_reason = "PORT_IN_USE"

    def __init__(self, port: int, purpose: str, why: str) -> None:
        super().__init__(
            f"port {port}, for {purpose}, cannot be used: {why}; another fleet may be running: "
            "choose other ports with --port-base PORT, or --port-base 0 for free ones",
            metadata={"port": str(port), "purpose": purpose},
        )


class PartFailedError(StartupError):
    """A process of the fleet could not be started, or died too often."""

    default_reason = "PART_FAILED"

    def __init__(self, part: str, problem: str, log_path: Path, log_tail: str) -> None:
        shown = f"; the end of {log_path}:\n{log_tail}" if log_tail else f"; its log is {log_path}"
        super().__init__(f"{problem}{shown}", metadata={"part": part, "log": str(log_path)})
        self.part = part

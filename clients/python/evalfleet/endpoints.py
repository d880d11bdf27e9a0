"""Where the services are: said explicitly, in the environment, or by a fleet that runs on this machine."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evalfleet.errors import EndpointError

SERVICES = ("generation", "safety", "scoring", "aggregation", "evaluation")
"""Those that every fleet has."""
CODE_RUNNER = "code_runner"
"""Runs programs for the scoring service, where that does not do so itself; its callers are told where it is."""
_ALL_SERVICES = (*SERVICES, CODE_RUNNER)
STATE_FILE_NAME = "fleet.json"
STATE_DIR_VARIABLE = "EVALFLEET_STATE_DIR"


def target_variable(service: str) -> str:
    """Return the environment variable that holds a service's address: ``EVALFLEET_<SERVICE>_TARGET``."""
    return f"EVALFLEET_{service.upper()}_TARGET"


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder where ``evalfleet up`` keeps its state: $EVALFLEET_STATE_DIR, else ``~/.evalfleet``."""
    given = (os.environ if environ is None else environ).get(STATE_DIR_VARIABLE)
    return Path(given) if given else Path.home() / ".evalfleet"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The address (``host:port`` or any gRPC target) of each known service, by its name.

    ``missing`` says why the others are unknown.
    """

    targets: Mapping[str, str]
    missing: str = field(default="", compare=False)

    def target(self, service: str) -> str:
        """Return the address of ``service``.

        Raises:
            EndpointError: it is not known; the message says how to give it.
        """
        if service in self.targets:
            return self.targets[service]
        reason = f" ({self.missing})" if self.missing else ""
        start = "" if service == CODE_RUNNER else "start a fleet with `evalfleet up`, or "
        raise EndpointError(
            f"it is not known where the {service} service is{reason}: {start}set {target_variable(service)}=HOST:PORT",
            reason="NO_ENDPOINT",
            metadata={"service": service},
        )


def find_endpoints(
    explicit: Mapping[str, str] | None = None,
    *,
    state_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Endpoints:
    """Collect addresses: ``explicit`` wins over the environment, and that over a running fleet's state file.

    Args:
        explicit: addresses by service name.
        state_dir: state folder of ``evalfleet up``; default as in ``default_state_dir``.
        environ: instead of ``os.environ``.

    Raises:
        EndpointError: ``explicit`` names an unknown service, or the state file is damaged.
    """
    environ = os.environ if environ is None else environ
    unknown = sorted(set(explicit or {}) - set(_ALL_SERVICES))
    if unknown:
        known = ", ".join(_ALL_SERVICES)
        raise EndpointError(f"no service is named {unknown[0]!r}; known: {known}", reason="NO_SERVICE")
    in_environ = [each for each in _ALL_SERVICES if environ.get(target_variable(each))]
    said = {**{each: environ[target_variable(each)] for each in in_environ}, **(explicit or {})}
    if said.keys() >= set(SERVICES):
        return Endpoints(said)
    recorded = read_state_file((state_dir or default_state_dir(environ)) / STATE_FILE_NAME)
    return Endpoints({**recorded.targets, **said}, recorded.missing)


def read_state_file(path: Path) -> Endpoints:
    """Read the addresses that a running ``evalfleet up`` wrote to ``path``; none if it runs no more.

    Raises:
        EndpointError: the file is damaged.
    """
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        process_id, targets = int(recorded["pid"]), dict(recorded["endpoints"])
    except FileNotFoundError:
        return Endpoints({}, f"no fleet has written {path}")
    except OSError as error:
        return Endpoints({}, f"{path} cannot be read: {error.strerror}")
    except (ValueError, KeyError, TypeError) as error:
        raise EndpointError(f"{path} is damaged; stop the fleet, delete the file and start again") from error
    if not _is_running(process_id):
        return Endpoints({}, f"the fleet recorded in {path} runs no more")
    return Endpoints({each: str(targets[each]) for each in SERVICES if each in targets})


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""The body of every service's ``__main__``: read settings, configure the log, wire the service, serve, exit."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import NoReturn, TypeVar

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from pydantic import ValidationError

from services.runtime.error_types import FleetError, StartupError
from services.runtime.log_setup import configure_logging
from services.runtime.names import nearest_names
from services.runtime.security.handshakes.core_log import CoreLog, diverted_core_log
from services.runtime.security.handshakes.refused import recording_handshakes
from services.runtime.server import HostedService, serve
from services.runtime.settings import ENV_PREFIX, ServiceSettings
from services.runtime.stopping import StoppedEarlyError, StopRequests
from services.runtime.telemetry.setup import TracingOptions, recording_traces

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)
Wiring = Callable[[SettingsT, CollectorRegistry], AbstractAsyncContextManager[Sequence[HostedService]]]


def run_service(name: str, settings_class: type[SettingsT], wiring: Wiring[SettingsT]) -> NoReturn:
    """Run a service until it is told to stop, and exit: 0 after a drain, 1 when it could not start.

    Args:
        name: of the service, for its log: ``"safety"``.
        settings_class: read from the environment.
        wiring: builds what the service needs, yields what to serve, and takes it down again afterwards. Raises a
            ``FleetError`` when something is missing: it is printed as one line.
    """
    # gRPC's core prints lines of its own to stderr, such as every GOAWAY. For this process it read the variable when it
    # was imported; where callers speak TLS, ``diverted_core_log`` heeds it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # A series beside each counter, of when it began, which nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
    try:
        settings = read_settings(settings_class)
        with diverted_core_log(settings) as core_log:
            configure_logging(level=settings.log_level, log_format=settings.log_format, service=name)
            warn_of_misspelled_settings(settings_class, os.environ)
            options = TracingOptions.read(os.environ, ratio=settings.trace_ratio, file=settings.trace_file)
            with (
                recording_traces(name, options),
                asyncio.Runner(loop_factory=event_loop_factory()) as runner,
            ):
                runner.run(_run(name, settings, wiring, core_log))
    except FleetError as error:
        print(f"{name} cannot start: {' '.join(error.message.split())}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the end of the process: whoever started it gets a line, the log the rest
        structlog.get_logger(__name__).critical("service_crashed", exc_info=error)
        print(f"{name} stopped on an unexpected error; its log has the traceback", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes a service's event loop: uvloop, which saves an eighth of an item's CPU time.

    There is no uvloop for Windows; ``None`` stands for asyncio's own loop.
    """
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def read_settings(settings_class: type[SettingsT]) -> SettingsT:
    """Read settings from the environment.

    Raises:
        StartupError: names every variable with a bad value, and what is wrong with it.
    """
    try:
        return settings_class()
    except ValidationError as error:
        problems = [_explain(str(each["loc"][0]), each["msg"]) for each in error.errors() if each["loc"]]
        raise StartupError("; ".join(problems) or str(error), reason="BAD_SETTINGS") from error


def _explain(field: str, problem: str) -> str:
    variable = f"{ENV_PREFIX}{field}".upper()
    given = os.environ.get(variable)
    return f"{variable} is missing" if given is None else f"{variable}={given!r}: {problem}"


async def _run(name: str, settings: SettingsT, wiring: Wiring[SettingsT], core_log: CoreLog | None) -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    stop = StopRequests()
    with stop.listening(settings.parent_pid), suppress(StoppedEarlyError):
        async with AsyncExitStack() as wired:
            with stop.interrupting():
                services = await wired.enter_async_context(wiring(settings, registry))
            service = services[0].full_name if services else ""
            await wired.enter_async_context(recording_handshakes(core_log, settings, registry, service=service))
            await serve(settings, services, registry=registry, stop=stop, name=name)


def warn_of_misspelled_settings(settings_class: type[ServiceSettings], environment: Mapping[str, str]) -> None:
    """Log variables that no setting reads although their name is close to one."""
    known = {f"{ENV_PREFIX}{field}".upper() for field in settings_class.model_fields}
    for variable in environment:
        if variable.startswith(ENV_PREFIX) and variable not in known:
            near = nearest_names(variable.removeprefix(ENV_PREFIX), (each.removeprefix(ENV_PREFIX) for each in known))
            if near:
                structlog.get_logger(__name__).warning(
                    "setting_not_known", variable=variable, nearest=f"{ENV_PREFIX}{near[0]}"
                )

"""The body of ``python -m services.inference``: runs Triton, or the local host, until told to stop."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import structlog

from services.inference import repository
from services.inference.contract import CausalLMArguments, ClassifierArguments, ModelEntry
from services.inference.control_key import read_or_make_key
from services.inference.platform_checks import check_platform, gather_platform_facts, installed_triton
from services.inference.settings import InferenceSettings, StartupModel
from services.inference.triton_server import TritonOptions, TritonServer
from services.runtime.entry import read_settings
from services.runtime.errors import FleetError, StartupError
from services.runtime.free_ports import free_port
from services.runtime.listening import write_ready_file
from services.runtime.log_files import keep_bounded
from services.runtime.log_setup import configure_logging
from services.runtime.names import nearest_names
from services.runtime.security.settings import is_loopback
from services.runtime.stopping import StoppedEarlyError, StopRequests

_log: Any = structlog.get_logger(__name__)


def run_triton_host() -> NoReturn:
    """Run Triton until it is told to stop, or its parent or Triton itself ends; exit 0 after a stop, else 1."""
    try:
        settings = read_settings(InferenceSettings)
        configure_logging(level=settings.log_level, log_format=settings.log_format, service="inference")
        asyncio.run(_run(settings))
    except FleetError as error:
        print(f"inference cannot start: {error.message}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


async def _run(settings: InferenceSettings) -> None:
    files = (
        check_platform(gather_platform_facts())
        if settings.triton_dir is None
        else installed_triton(settings.triton_dir)
    )
    options = _triton_options(settings)
    if settings.ready_file is not None:
        settings.ready_file.unlink(missing_ok=True)
    stop = StopRequests()
    with stop.listening(settings.parent_pid), suppress(StoppedEarlyError):
        server = await TritonServer.start(files, options)
        _log.info("triton_started", pid=server.pid, log=str(options.log_path))
        bounding = asyncio.create_task(keep_bounded([options.log_path], settings.log_max_bytes), name="bound the log")
        try:
            with stop.interrupting():
                await server.wait_until_ready(settings.start_timeout_seconds)
            address = f"{options.host}:{options.port}"
            _log.info("serving", address=address, metrics_port=options.metrics_port or None)
            if settings.ready_file is not None:
                write_ready_file(settings.ready_file, address)
            await _until_stopped(server, stop, options.log_path)
        finally:
            bounding.cancel()
            await server.stop()
            _log.info("stopped")


async def _until_stopped(server: TritonServer, stop: StopRequests, log_path: Path) -> None:
    exited = asyncio.ensure_future(server.wait_until_exit())
    stopped = asyncio.ensure_future(stop.drain.wait())
    await asyncio.wait((exited, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if exited.done() and not stop.drain.is_set():
        raise StartupError(
            f"Triton ended by itself with code {exited.result()}; its log is {log_path}", reason="TRITON_ENDED"
        )
    exited.cancel()


def _triton_options(settings: InferenceSettings) -> TritonOptions:
    if not is_loopback(settings.host) and not settings.allow_insecure:
        raise StartupError(
            f"EVALFLEET_HOST={settings.host}: Triton speaks plaintext and answers whoever reaches it; where a network "
            "policy lets only the fleet's services do so, set EVALFLEET_ALLOW_INSECURE=true",
            reason="INSECURE_PORT",
            metadata={"host": settings.host},
        )
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    return TritonOptions(
        host=settings.host,
        port=settings.port or free_port(settings.host),
        metrics_port=settings.metrics_port,
        work_dir=settings.state_dir.resolve(),
        model_control_key=read_or_make_key(settings.key_file),
        exit_timeout_seconds=settings.exit_timeout_seconds,
        torch_threads=settings.engine_threads,
        startup_models=startup_entries(settings.startup_models),
    )


def startup_entries(models: tuple[StartupModel, ...]) -> Mapping[str, ModelEntry]:
    """Build the entries of the models that are loaded at start.

    Raises:
        FleetError: an argument is unknown or a checkpoint cannot be used.
    """
    entries: dict[str, ModelEntry] = {}
    for model in models:
        name = repository.check_model_name(model.name)
        if model.engine == "causal_lm":
            entries[name] = repository.causal_lm_entry(_arguments(CausalLMArguments, model))
        else:
            entries[name] = repository.classifier_entry(_arguments(ClassifierArguments, model))
    return entries


def _arguments(cls: type[CausalLMArguments] | type[ClassifierArguments], model: StartupModel) -> Any:
    known = [field.name for field in fields(cls)]
    for name in model.arguments:
        if name not in known:
            near = nearest_names(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise StartupError(
                f"EVALFLEET_STARTUP_MODELS: model {model.name!r} has an unknown argument {name!r}; {hint}",
                reason="BAD_SETTINGS",
            )
    if "model" not in model.arguments:
        raise StartupError(
            f"EVALFLEET_STARTUP_MODELS: model {model.name!r} names no checkpoint folder (argument 'model')",
            reason="BAD_SETTINGS",
        )
    return cls(**model.arguments)

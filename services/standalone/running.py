"""The body of `evalfleet up`: from options to a stopped fleet."""

import asyncio
import signal
from pathlib import Path

import structlog
from evalfleet.endpoints import default_state_dir
from rich.console import Console

from services.inference.platform_checks import check_platform, gather_platform_facts
from services.runtime.log_files import keep_bounded
from services.runtime.stopping import StopRequests
from services.standalone.options import FleetOptions
from services.standalone.plan import FleetPlan, key_file, plan_fleet
from services.standalone.ports import take_ports
from services.standalone.reporting import TerminalReporter
from services.standalone.state import StateFile, locked, prepare, wait_for_predecessor
from services.standalone.supervisor import Supervisor


def run_fleet(
    options: FleetOptions, console: Console, *, ready_file: Path | None = None, parent_pid: int | None = None
) -> None:
    """Run a fleet until it is asked to stop.

    Args:
        options: what the fleet is told.
        console: for people.
        ready_file: receives a copy of the state file while the fleet is up.
        parent_pid: the process at whose end the fleet stops.

    Raises:
        StartupError: the fleet cannot start or go on; the message says what to do.
    """
    # The terminal gets the reporter's sentences alone.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    if options.inference == "triton":
        # Known at once, and said without the detour over a process that ends.
        check_platform(gather_platform_facts())
    with locked(options.state_dir):
        wait_for_predecessor(
            options.state_dir, on_wait=lambda: console.print("waiting for the end of a fleet that was killed")
        )
        plan = plan_fleet(options, take_ports(options.port_base))
        prepare(plan, key_file(options))
        asyncio.run(_run(plan, TerminalReporter(console), ready_file, parent_pid, options.log_max_bytes))


async def _run(
    plan: FleetPlan, report: TerminalReporter, ready_file: Path | None, parent_pid: int | None, log_max_bytes: int
) -> None:
    stop = StopRequests()
    loop = asyncio.get_running_loop()
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # A closed terminal ends the fleet like Ctrl-C does, unless nohup asked for the opposite.
        loop.add_signal_handler(signal.SIGHUP, stop.request, "SIGHUP")
    supervisor = Supervisor(plan, StateFile(plan, ready_file), report)
    with stop.listening(parent_pid):
        announcing = loop.create_task(_announce_stop(stop, report))
        logs = [each.log_path for each in plan.parts]
        bounding = loop.create_task(keep_bounded(logs, log_max_bytes), name="bound the logs")
        report.starting(plan)
        try:
            await supervisor.run(stop, lambda: report.healthy(plan, default_state_dir()))
        finally:
            announcing.cancel()
            bounding.cancel()
            report.stopped()


async def _announce_stop(stop: StopRequests, report: TerminalReporter) -> None:
    await stop.drain.wait()
    report.stopping()

"""What a person at the terminal sees of the fleet."""

import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from services.standalone.plan import INFERENCE, FleetPlan


class TerminalReporter:
    """Prints a line for each event, and the table of endpoints."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def starting(self, plan: FleetPlan) -> None:
        """The processes are about to be started."""
        names = ", ".join(each.name for each in plan.parts)
        self._say(f"starting {names}; logs in {plan.parts[0].log_path.parent}")

    def started(self, part: str, seconds: float) -> None:
        """A process is healthy, ``seconds`` after its first start."""
        self._say(f"  {part} is healthy after {seconds:.1f} s")

    def died(self, part: str, how: str, restart_in_seconds: float) -> None:
        """A process has ended unasked and will be started again."""
        self._event(f"{part} {how}; starting it again in {restart_in_seconds:.1f} s", "yellow")

    def recovered(self, part: str, seconds: float) -> None:
        """A process is healthy again, ``seconds`` after it died."""
        self._event(f"{part} is healthy again after {seconds:.1f} s", "green")

    def killed(self, part: str) -> None:
        """A process did not stop in time and was killed."""
        self._event(f"{part} did not stop in time and was killed", "yellow")

    def healthy(self, plan: FleetPlan, default_state_dir: Path) -> None:
        """All processes are healthy: print where they are and what to do next."""
        table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False, header_style="bold")
        for header in ("service", "gRPC", "metrics"):
            table.add_column(header, overflow="fold")
        for part in sorted(plan.parts, key=lambda each: each.name == INFERENCE):
            name = f"{part.name} ({plan.inference})" if part.name == INFERENCE else part.name
            table.add_row(name, part.target, f"http://{part.metrics_target}/metrics")
        self._console.print()
        self._console.print(table)
        self._console.print()
        self._say(f"The fleet is up after {time.monotonic() - self._began:.1f} s; Ctrl-C stops it.")
        where = "" if plan.state_dir == default_state_dir else f"--state-dir {plan.state_dir} "
        self._say(f"In another terminal: evalfleet {where}run --model DIR --suite demo")

    def stopping(self) -> None:
        """A stop was asked for."""
        self._say("stopping: calls in flight may finish; Ctrl-C again stops at once")

    def stopped(self) -> None:
        """No process is left."""
        self._say("stopped; no process is left")

    def _event(self, text: str, style: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", style=style, markup=False, soft_wrap=True)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

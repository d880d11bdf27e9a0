"""A whole fleet for the length of a `with` statement: for tests, demos and benchmarks."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from evalfleet.endpoints import SERVICES

from services.standalone.errors import PartFailedError
from services.standalone.options import InferenceKind

_POLL_SECONDS = 0.1


StoreSettings = Callable[[Path], Mapping[str, str]]
"""Says by its settings where the fleet of a state folder keeps what it stores."""


class RunningFleet(AbstractContextManager["RunningFleet"], AbstractAsyncContextManager["RunningFleet"]):
    """Runs ``python -m services.standalone`` on free ports; ``with`` and ``async with`` do the same.

    It is a process of its own, so it needs no event loop here and is what people start. It ends with this process.

    Attributes:
        endpoints: ``host:port`` of the five services, by name.
        triton_target: ``host:port`` of the inference server.
        state_dir: its state folder.
        process: the supervisor.
        store_settings: tests set it, so that all their fleets use other stores than files.
    """

    store_settings: ClassVar[StoreSettings | None] = None

    def __init__(
        self,
        *,
        state_dir: Path | None = None,
        port_base: int = 0,
        inference: InferenceKind = "triton",
        data_dirs: Sequence[Path] = (),
        checkpoint_roots: Sequence[Path] = (),
        suite_dirs: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        start_timeout_seconds: float = 300.0,
        stop_timeout_seconds: float = 90.0,
    ) -> None:
        """Describe the fleet; nothing is started yet.

        Args:
            state_dir: kept afterwards; default: a temporary folder that is removed.
            port_base: first port; 0 takes free ones.
            inference: as ``evalfleet up --inference``.
            data_dirs: folders of benchmark data.
            checkpoint_roots: where checkpoints may lie.
            suite_dirs: further folders with suites and tasks.
            environment: added to this process's environment for the fleet.
            start_timeout_seconds: longest time until it is healthy.
            stop_timeout_seconds: longest time for its drain.
        """
        self.endpoints: Mapping[str, str] = {}
        self.triton_target = ""
        self._given_state_dir = state_dir
        self._arguments = [f"--port-base={port_base}", f"--inference={inference}"]
        self._arguments += [f"--data-dir={each}" for each in data_dirs]
        self._arguments += [f"--checkpoint-root={each}" for each in checkpoint_roots]
        self._arguments += [f"--suite-dir={each}" for each in suite_dirs]
        self._told = dict(environment or {})
        self._start_timeout_seconds = start_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        self._resources = ExitStack()

    @property
    def output(self) -> str:
        """What the supervisor has printed so far."""
        return self._output_path.read_text(encoding="utf-8", errors="replace")

    @property
    def processes(self) -> Mapping[str, int]:
        """The process ids of its parts, as they are now.

        Raises:
            PartFailedError: the fleet has ended; the message holds what it printed.
        """
        recorded: Mapping[str, int] = self._recorded["processes"]
        return recorded

    @property
    def metrics_targets(self) -> Mapping[str, str]:
        """``host:port`` of the Prometheus metrics of its parts, by name; ``inference`` is Triton."""
        recorded: Mapping[str, str] = self._recorded["metrics"]
        return recorded

    @property
    def _recorded(self) -> Mapping[str, Any]:
        try:
            recorded: Mapping[str, Any] = json.loads(self._ready_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            # It is removed when the fleet begins to stop.
            raise PartFailedError("fleet", "the fleet has stopped", self._output_path, self.output) from None
        return recorded

    def __enter__(self) -> "RunningFleet":
        """Start the fleet and wait until it is healthy.

        Raises:
            PartFailedError: it did not start; the message holds what it printed.
        """
        with ExitStack() as resources:
            folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="evalfleet-")))
            self.state_dir = self._given_state_dir or folder / "state"
            self._ready_file = folder / "ready.json"
            self._output_path = folder / "output.txt"
            with self._output_path.open("wb") as output:
                self.process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "services.standalone", f"--parent-pid={os.getpid()}"),
                        *(f"--state-dir={self.state_dir}", f"--ready-file={self._ready_file}", *self._arguments),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._stores(), **self._told},
                    # Ctrl-C is for us: the fleet is stopped when the block is left.
                    start_new_session=True,
                )
            resources.callback(self.stop)
            self._wait_until_ready()
            self._resources = resources.pop_all()
        return self

    def _stores(self) -> Mapping[str, str]:
        return {} if RunningFleet.store_settings is None else RunningFleet.store_settings(self.state_dir)

    def stop(self) -> int:
        """Stop the fleet, in order and in bounded time, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(self._stop_timeout_seconds)
        except subprocess.TimeoutExpired:
            # Its processes notice the end of the supervisor by themselves.
            self.process.kill()
            return self.process.wait()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._resources.close()

    async def __aenter__(self) -> "RunningFleet":
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._resources.close)

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + self._start_timeout_seconds
        while not self._ready_file.exists():
            if self.process.poll() is not None:
                problem = f"the fleet ended with exit code {self.process.returncode}"
                raise PartFailedError("fleet", problem, self._output_path, self.output)
            if time.monotonic() > give_up_at:
                problem = f"the fleet was not healthy within {self._start_timeout_seconds:.0f} s"
                raise PartFailedError("fleet", problem, self._output_path, self.output)
            time.sleep(_POLL_SECONDS)
        targets = self._recorded["endpoints"]
        self.endpoints = {each: targets[each] for each in SERVICES}
        self.triton_target = targets["triton"]

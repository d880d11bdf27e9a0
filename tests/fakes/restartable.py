"""Services on an event loop of their own, which a test may stop and start again on the same port."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from types import TracebackType

from services.runtime.free_ports import free_port
from services.runtime.server import HostedService
from services.runtime.settings import ServiceSettings
from services.runtime.testing import run_in_process
from tests.patience import LONGEST_WAIT_SECONDS


class RestartableServices(AbstractContextManager["RestartableServices"]):
    """Serves for the length of a ``with`` statement, in a thread.

    Args:
        services: makes what is served, at every start.

    Attributes:
        target: where it listens.
        starts: how often it was started.
    """

    def __init__(self, services: Callable[[], Sequence[HostedService]]) -> None:
        self._services = services
        self._settings = ServiceSettings(port=free_port("127.0.0.1"), metrics_port=0)
        self.target = f"127.0.0.1:{self._settings.port}"
        self.starts = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._running = AsyncExitStack()

    def __enter__(self) -> "RestartableServices":
        self._thread.start()
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._run(self._start)
        self.starts += 1

    def stop(self) -> None:
        """Cut all calls and free the port."""
        self._run(lambda: self._running.aclose())

    def _run(self, work: Callable[[], object]) -> None:
        async def there() -> None:
            await work()  # type: ignore[misc]

        asyncio.run_coroutine_threadsafe(there(), self._loop).result(LONGEST_WAIT_SECONDS)

    async def _start(self) -> None:
        self._running = AsyncExitStack()
        await self._running.enter_async_context(run_in_process(*self._services(), settings=self._settings))

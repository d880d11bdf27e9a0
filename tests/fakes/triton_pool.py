"""A pool of inference servers in memory, whose members a test lets come, go and lose what they have."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.generation.backend import Deployment
from services.generation.pool.member import Connection
from services.generation.pool.targets import Lookup
from services.generation.pool.triton_pool import TritonPool
from services.generation.pool.upkeep import PoolLimits
from services.runtime.errors import FleetError
from tests.fakes.inference_backend import FakeInferenceBackend
from tests.patience import until

SHORT = PoolLimits(lookup_interval_seconds=0.002, upkeep_interval_seconds=0.002)


class Servers:
    """Inference servers by name, and what DNS says of them.

    Attributes:
        by_name: all there ever were.
        closed: whose connections were closed, in that order.
        pool: what is tested.
        changed: by the name of a deployment, what is wrong with its files.
        warmed: who was warmed up, in that order.
        warming_fails: what goes wrong then.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, FakeInferenceBackend] = {}
        self.lookup = Lookup(frozenset())
        self.lookups = 0
        self.closed: list[str] = []
        self.changed: dict[str, FleetError] = {}
        self.warmed: list[str] = []
        self.warming_fails: FleetError | None = None
        self.pool: TritonPool

    def __getitem__(self, name: str) -> FakeInferenceBackend:
        return self.by_name[name]

    async def look_up(self) -> Lookup:
        self.lookups += 1
        return self.lookup

    def connect(self, address: str) -> Connection:
        """Connect to a server, which is new or, under the name of a former one, that one."""

        async def close() -> None:
            self.closed.append(address)

        async def warm_up() -> None:
            self.warmed.append(address)
            if self.warming_fails is not None:
                raise self.warming_fails

        return Connection(self.by_name.setdefault(address, FakeInferenceBackend()), close, warm_up)

    async def verify(self, deployment: Deployment) -> None:
        if deployment.name in self.changed:
            raise self.changed[deployment.name]

    async def are(self, *names: str, doubtful: tuple[str, ...] = ()) -> None:
        """Let DNS name these, and wait until the pool has noticed."""
        self.lookup = Lookup(frozenset(names), frozenset(doubtful))
        seen = self.lookups
        await until(lambda: self.lookups > seen + 1)

    async def ready(self, *names: str) -> None:
        """Let DNS name these, and wait until all of them take requests."""
        await self.are(*names)
        await until(lambda: self.pool.ready_count == len(names) and not self.pool.away_count)

    async def have(self, deployment: str, *names: str) -> None:
        """Wait until these servers have a deployment, as the pool sees it."""
        members = self.pool._members
        await until(lambda: all(each in members and deployment in members[each].names for each in names))


@asynccontextmanager
async def running_pool(*names: str, limits: PoolLimits = SHORT) -> AsyncIterator[Servers]:
    """Yield servers that a pool already spreads requests over."""
    servers = Servers()
    servers.lookup = Lookup(frozenset(names))
    async with TritonPool(servers, servers.connect, servers.verify, limits) as servers.pool:
        await until(lambda: servers.pool.ready_count == len(names))
        yield servers
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

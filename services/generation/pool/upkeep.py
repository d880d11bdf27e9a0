"""Keeps one Triton of a pool in step: notices when it comes and goes, and gives it what all are to have."""

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog

from services.generation.pool.member import Member
from services.generation.pool.plan import Plan
from services.runtime.errors import FleetError


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of keeping a pool.

    Attributes:
        lookup_interval_seconds: pause between two lookups of the names.
        upkeep_interval_seconds: pause between two looks at a member.
        load_timeout_seconds: time for one checkpoint at one member, beside those that are waited for.
        unload_timeout_seconds: time for unloading one that a member should not have.
        list_timeout_seconds: time for asking a member what it has.
    """

    lookup_interval_seconds: float = 5.0
    upkeep_interval_seconds: float = 2.0
    load_timeout_seconds: float = 600.0
    unload_timeout_seconds: float = 120.0
    list_timeout_seconds: float = 10.0


class Upkeep:
    """Watches one member, and unloads and loads there what the plan says, one after the other.

    Args:
        member: which.
        plan: what all are to have.
        limits: intervals and time limits.
    """

    def __init__(self, member: Member, plan: Plan, limits: PoolLimits) -> None:
        self._member = member
        self._plan = plan
        self._limits = limits
        self._is_warm = member.connection.warm_up is None
        self._log: Any = structlog.get_logger(__name__).bind(triton=member.address)

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(), name=f"watch {self._member.address}")
            tasks.create_task(self._mend(), name=f"mend {self._member.address}")

    async def _watch(self) -> None:
        """Look at the member over and over: a load of minutes must not hide that it has gone."""
        while True:
            self._member.stirred.clear()
            await self._member.refresh(timeout_seconds=self._limits.list_timeout_seconds)
            try:
                async with asyncio.timeout(self._limits.upkeep_interval_seconds):
                    await self._member.stirred.wait()
            except TimeoutError:
                continue

    async def _mend(self) -> None:
        while True:
            if self._member.is_ready:
                try:
                    await self._warm_up()
                    await self._unload_dropped()
                    await self._load_lacking()
                except FleetError as error:
                    self._log.warning("triton_not_mended", reason=error.reason, error=error.message)
            await asyncio.sleep(self._limits.upkeep_interval_seconds)

    async def _warm_up(self) -> None:
        if not self._is_warm and self._member.connection.warm_up is not None:
            self._is_warm = True  # once: a checkpoint starts it, too, and tells its caller what is wrong
            await self._member.connection.warm_up()

    async def _unload_dropped(self) -> None:
        """Make room first: what was unloaded everywhere else while this member was away."""
        for name in self._member.names & self._plan.dropped.keys():
            await self._member.unload(name, timeout_seconds=self._limits.unload_timeout_seconds)
            self._log.info("triton_gave_up_model", deployment=name)

    async def _load_lacking(self) -> None:
        # The latest are most likely to be asked for.
        for name, deployment in reversed(tuple(self._plan.wanted.items())):
            member = self._member
            if not member.is_ready:
                return
            if name in member.names or member.is_postponed(name) or self._plan.wanted.get(name) is not deployment:
                continue
            # Its failure is told by the member, which then is left alone for a while.
            await asyncio.wait([member.load(deployment, timeout_seconds=self._limits.load_timeout_seconds)])

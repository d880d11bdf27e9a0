"""The inference backend that is several Tritons, each of which has all models."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import structlog

from services.generation.backend import Deployment, EngineAnswer, EngineScores, InferenceBackend
from services.generation.errors import ModelLostError
from services.generation.pool.member import Connection, Member
from services.generation.pool.plan import Plan, Verify
from services.generation.pool.targets import Lookup
from services.generation.pool.upkeep import PoolLimits, Upkeep
from services.generation.requests import Prompt, Sampling, TextPiece
from services.runtime.errors import FleetError, UnavailableError

ResultT = TypeVar("ResultT")


class Targets(Protocol):
    """What is used of ``TritonTargets``."""

    async def look_up(self) -> Lookup:
        """Return the addresses of now."""


class TritonPool:
    """Implements ``InferenceBackend`` over the Tritons at the addresses of now.

    Every member is to have every model. A request goes to the member with the fewest in flight among those that have
    its model; one whose member has lost it goes to another, at most once to each. What a member lacks is loaded there
    in the background. Use it as a context manager.

    Args:
        targets: tell where the members are.
        connect: opens the connection to one, inside the running event loop.
        verify: see ``plan.Verify``.
        limits: intervals and time limits.

    Attributes:
        moved_requests: how often a request was sent to another member.
    """

    def __init__(
        self, targets: Targets, connect: Callable[[str], Connection], verify: Verify, limits: PoolLimits
    ) -> None:
        self._targets = targets
        self._connect = connect
        self._verify = verify
        self._limits = limits
        self._plan = Plan()
        self._members: dict[str, Member] = {}
        self._upkeep: dict[str, asyncio.Task[None]] = {}
        self._ready: tuple[Member, ...] = ()
        self._leaving: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None
        self._is_settled = False
        self._turn = 0
        self._told: list[Callable[[int], None]] = []
        self.moved_requests = 0
        self._log: Any = structlog.get_logger(__name__)

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow(), name="follow Tritons")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        tasks = [*([self._following] if self._following else []), *self._upkeep.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for member in self._members.values():
            await member.close()

    @property
    def ready_count(self) -> int:
        """How many members take requests."""
        return len(self._ready)

    @property
    def away_count(self) -> int:
        """How many do not."""
        return len(self._members) - len(self._ready)

    def count_for(self, tell: Callable[[int], None]) -> None:
        """Call ``tell`` with ``ready_count``, now and whenever it changes."""
        self._told.append(tell)
        tell(self.ready_count)

    async def is_ready(self) -> bool:
        """Return whether a member takes requests; not before all that were there first were asked what they have.

        Otherwise what only the slower ones have would be loaded again into the fastest.
        """
        if not self._is_settled and self._members:
            self._is_settled = all(each.was_asked for each in self._members.values())
        return self._is_settled and bool(self._ready)

    async def loaded_names(self, *, timeout_seconds: float) -> frozenset[str]:
        """Return what at least one member that takes requests has, as far as known."""
        if not self._ready:
            raise _worst(())
        return frozenset[str]().union(*(each.names for each in self._ready))

    async def memory_bytes(self, *, timeout_seconds: float) -> int:
        """Return the memory of the smallest device: each is to hold all models."""
        found = await asyncio.gather(
            *(each.backend.memory_bytes(timeout_seconds=timeout_seconds) for each in self._ready),
            return_exceptions=True,
        )
        if not any(isinstance(each, int) for each in found):
            raise _worst(found)
        return min(each for each in found if isinstance(each, int))

    def adopt(self, deployment: Deployment) -> None:
        """Learn of a deployment that an earlier process of this service loaded: every member is to have it."""
        self._plan.want(deployment)

    async def load(self, deployment: Deployment, *, timeout_seconds: float) -> None:
        """Load a deployment into all members that take requests, and return when the first has it."""
        name = deployment.name
        self._plan.dropped.pop(name, None)
        members = self._ready
        waiting = {each.load(deployment, timeout_seconds=timeout_seconds) for each in members}
        errors: list[FleetError | None] = []
        try:
            while waiting and None not in errors:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                errors += [_given_up() if each.cancelled() else each.result() for each in done]
        except asyncio.CancelledError:
            await asyncio.gather(*(each.stop_loading(name) for each in members))
            raise
        if None not in errors:
            raise _worst(errors)
        self._plan.want(deployment)

    async def unload(self, name: str, *, timeout_seconds: float) -> None:
        """Unload a deployment everywhere; members that are away unload it when they are back."""
        self._plan.drop(name)
        found = await asyncio.gather(
            *(each.unload(name, timeout_seconds=timeout_seconds) for each in self._ready), return_exceptions=True
        )
        if None not in found or not all(each is None or isinstance(each, ModelLostError) for each in found):
            raise _worst(found)

    async def generate(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> EngineAnswer:
        """Generate one answer."""
        return await self._asked(
            name,
            timeout_seconds,
            lambda backend, seconds: backend.generate(
                name, prompt, sampling, truncate=truncate, timeout_seconds=seconds
            ),
        )

    async def score(
        self, name: str, context: Prompt, continuations: Sequence[str], *, truncate: bool, timeout_seconds: float
    ) -> EngineScores:
        """Score all continuations of one context."""
        return await self._asked(
            name,
            timeout_seconds,
            lambda backend, seconds: backend.score(
                name, context, continuations, truncate=truncate, timeout_seconds=seconds
            ),
        )

    async def generate_pieces(
        self, name: str, prompt: Prompt, sampling: Sampling, *, truncate: bool, timeout_seconds: float
    ) -> AsyncGenerator[TextPiece | EngineAnswer, None]:
        """Generate one answer piece by piece; its first piece decides which member gives the others.

        Raises:
            UnavailableError: the member is gone in the middle of the answer, but others have the model.
        """
        ends_at = monotonic() + timeout_seconds
        tried: dict[Member, ModelLostError] = {}
        while True:
            member = self._choose(name, tried)
            epoch, has_begun = member.begin(), False
            try:
                pieces = member.backend.generate_pieces(
                    name, prompt, sampling, truncate=truncate, timeout_seconds=ends_at - monotonic()
                )
                async with aclosing(pieces):
                    async for piece in pieces:
                        has_begun = True
                        yield piece
                return
            except ModelLostError as error:
                member.lost(name, error, epoch)
                if has_begun:
                    raise self._broken_off(name, error) from error
                tried[member] = error
            finally:
                member.end()

    async def _asked(
        self, name: str, timeout_seconds: float, ask: Callable[[InferenceBackend, float], Awaitable[ResultT]]
    ) -> ResultT:
        """Ask a member that has a deployment; if it turns out to have lost it, another one."""
        ends_at = monotonic() + timeout_seconds
        tried: dict[Member, ModelLostError] = {}
        while True:
            member = self._choose(name, tried)
            epoch = member.begin()
            try:
                return await ask(member.backend, ends_at - monotonic())
            except ModelLostError as error:
                member.lost(name, error, epoch)
                tried[member] = error
            finally:
                member.end()

    def _choose(self, name: str, tried: dict[Member, ModelLostError]) -> Member:
        """Return the member for a request.

        Raises:
            ModelLostError: no member has the deployment, beside those that have been tried.
        """
        # One that is away is the last resort: it may only have been too busy to say that it is ready.
        able = [each for each in self._ready if name in each.names and each not in tried] or [
            each for each in self._members.values() if name in each.names and each not in tried
        ]
        if not able:
            raise _nobody(name, tried)
        chosen = min(able, key=_load_of)
        self._turn += 1
        chosen.turn = self._turn
        self.moved_requests += bool(tried)
        return chosen

    def _broken_off(self, name: str, error: ModelLostError) -> FleetError:
        if any(name in each.names for each in self._ready):
            return UnavailableError(error.message, reason=error.reason, retry_after_seconds=error.retry_after_seconds)
        return ModelLostError(error.message, reason=error.reason)

    async def _follow(self) -> None:
        """Let members come and go as the targets say."""
        while True:
            lookup = await self._targets.look_up()
            for address in sorted(lookup.present - self._members.keys()):
                self._join(address)
            for address, member in tuple(self._members.items()):
                if address not in lookup.present and not (address in lookup.doubtful and member.is_ready):
                    self._leave(member)
            await asyncio.sleep(self._limits.lookup_interval_seconds)

    def _join(self, address: str) -> None:
        member = Member(address, self._connect(address), self._verify, self._count_ready)
        self._members[address] = member
        upkeep = asyncio.create_task(Upkeep(member, self._plan, self._limits).run(), name=f"keep {address}")
        upkeep.add_done_callback(partial(self._upkeep_ended, member))
        self._upkeep[address] = upkeep
        self._log.info("triton_joined", triton=address, members=len(self._members))

    def _leave(self, member: Member) -> None:
        """Send a member nothing any more, and part with it when its requests are answered."""
        del self._members[member.address]
        self._count_ready()
        leaving = asyncio.create_task(self._see_off(member), name=f"see off {member.address}")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        self._log.info("triton_left", triton=member.address, members=len(self._members), in_flight=member.in_flight)

    async def _see_off(self, member: Member) -> None:
        upkeep = self._upkeep.pop(member.address)
        upkeep.cancel()
        try:
            await asyncio.wait([upkeep])
            await member.until_idle()
        finally:
            await member.close()

    def _upkeep_ended(self, member: Member, task: "asyncio.Task[None]") -> None:
        """A member that nobody looks after would be asked for ever: the next lookup finds it anew."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("triton_upkeep_failed", triton=member.address, exc_info=error)
            if self._members.get(member.address) is member:
                self._leave(member)

    def _count_ready(self) -> None:
        self._ready = tuple(each for each in self._members.values() if each.is_ready)
        for tell in self._told:
            tell(self.ready_count)


def _load_of(member: Member) -> tuple[int, int]:
    return member.in_flight, member.turn


def _nobody(name: str, tried: dict[Member, ModelLostError]) -> ModelLostError:
    """What the lifecycle is told, which then loads it: engines that crashed are seen to member by member."""
    if not tried:
        return ModelLostError(f"no inference server has {name}", reason="MODEL_NOT_LOADED")
    last = tuple(tried.values())[-1]
    return ModelLostError(last.message, reason=last.reason)


def _given_up() -> FleetError:
    return ModelLostError("the inference server left the pool, or the load was given up")


def _worst(found: Sequence[object]) -> BaseException:
    """Return the error that says most: one of the checkpoint or of this program rather than the loss of a server."""
    errors = [each for each in found if isinstance(each, BaseException)]
    telling = [each for each in errors if not isinstance(each, ModelLostError)]
    return next(iter([*telling, *errors]), ModelLostError("no inference server takes requests"))

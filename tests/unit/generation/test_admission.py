"""Places at the inference server are bounded, handed on whatever happens, and never given to the dead."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.generation.admission import Admission, AdmissionLimits
from services.generation.requests import Priority
from services.runtime.calls import bind_ids
from services.runtime.deadlines import bind_deadline
from services.runtime.errors import DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError

HIGH, EVALUATION, LOW = Priority.INTERACTIVE, Priority.EVALUATION, Priority.BACKGROUND


class Work:
    """Requests that hold their place until they are told to end."""

    def __init__(self, **limits: Any) -> None:
        self.metrics = CollectorRegistry()
        bounds = AdmissionLimits(**({"running": 2, "running_per_call": 100} | limits))
        self.admission = Admission(bounds, self.metrics)
        self.began: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(
        self, name: str, priority: Priority = EVALUATION, caller: str = "c", seconds: float | None = None
    ) -> None:
        self.ends[name] = asyncio.Event()

        async def hold() -> None:
            with bind_ids(caller=caller), bind_deadline(seconds):
                async with self.admission.open_call().place(priority, 10):
                    self.began.append(name)
                    await self.ends[name].wait()

        self.tasks[name] = asyncio.create_task(hold())

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        await settle()

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.metrics.get_sample_value(f"evalfleet_generation_{name}", labels)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def failure(awaitable: Awaitable[object], kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        await awaitable
    return caught.value


async def test_a_freed_place_goes_to_the_highest_priority() -> None:
    work = Work()
    for name, priority in {"1": EVALUATION, "2": EVALUATION, "low": LOW, "middle": EVALUATION, "high": HIGH}.items():
        work.start(name, priority)
    await settle()
    assert work.began == ["1", "2"]
    assert work.gauge("queued_requests", priority="background") == 1
    assert work.gauge("queued_tokens", priority="evaluation") == 10
    oldest = work.gauge("oldest_wait_seconds", priority="interactive")
    assert oldest is not None
    assert oldest > 0
    for name in ("1", "2", "high", "middle", "low"):
        await work.end(name)
    assert work.began == ["1", "2", "high", "middle", "low"]
    assert work.gauge("running_requests", priority="evaluation") == 0
    assert work.gauge("engine_requests_waiting") == 0


async def test_what_waits_for_others_of_its_own_call_is_backlog_too() -> None:
    work = Work(running=2, running_per_call=1)
    assert (work.admission.work().running, work.admission.work().backlog_tokens) == (0, 0)
    ends = asyncio.Event()
    call = work.admission.open_call()

    async def hold(tokens: int) -> None:
        async with call.place(EVALUATION, tokens):
            await ends.wait()

    held = [asyncio.create_task(hold(tokens)) for tokens in (10, 200, 3000)]
    work.start("other")
    work.start("behind it")
    await settle()
    now = work.admission.work()
    # Of the call one has its place and two wait for it; of the other requests one runs and one is in the queue.
    assert (now.running, now.queued, now.backlog_tokens) == (2, 3, 3210)
    assert 0 < now.oldest_wait_seconds < work.admission.work().oldest_wait_seconds
    ends.set()
    for name in ("other", "behind it"):
        await work.end(name)
    await asyncio.gather(*held)
    assert work.admission.work() == type(now)(backlog_tokens=0)


async def test_some_places_are_kept_for_interactive_requests() -> None:
    work = Work(running=16)
    for number in range(20):
        work.start(str(number), EVALUATION)
    await settle()
    assert len(work.began) == 15
    work.start("person", HIGH)
    await settle()
    assert work.began[-1] == "person"


async def test_every_16th_place_goes_to_those_who_starve_however_many_people_wait() -> None:
    work = Work(running=16, aging_seconds=0.0)
    for number in range(120):
        work.start(f"person {number}", HIGH)
    work.start("evaluation", EVALUATION)
    await settle()
    for _ in range(20):
        if "evaluation" in work.began:
            break
        await work.end(next(name for name in work.began if not work.ends[name].is_set()))
    assert "evaluation" in work.began
    for task in work.tasks.values():
        task.cancel()
    await asyncio.gather(*work.tasks.values(), return_exceptions=True)


async def test_a_full_queue_says_when_to_come_back() -> None:
    work = Work(queued=3, queued_per_caller=2)
    for number in range(4):
        work.start(str(number), caller="greedy")
    await settle()
    work.start("fifth", caller="greedy")
    error: ResourceExhaustedError = await failure(work.tasks["fifth"], ResourceExhaustedError)
    assert error.reason == "QUEUE_FULL"
    assert error.retry_after_seconds
    assert error.metadata["caller"] == "greedy"
    work.start("other", caller="modest")
    await settle()
    assert not work.tasks["other"].done()
    work.start("one too many", caller="third")
    await failure(work.tasks["one too many"], ResourceExhaustedError)
    assert work.gauge("refused_requests_total", priority="evaluation") == 2
    for name in ("0", "1", "2", "3", "other"):
        await work.end(name)


async def test_a_request_whose_time_is_up_never_gets_a_place() -> None:
    work = Work()
    work.start("dead", seconds=0.01)
    assert (await failure(work.tasks["dead"], DeadlineExceededError)).reason == "QUEUE_DEADLINE_EXCEEDED"
    work.start("1")
    work.start("2")
    work.start("patient", seconds=0.15)
    error = await failure(work.tasks["patient"], DeadlineExceededError)
    assert error.reason == "QUEUE_DEADLINE_EXCEEDED"
    assert error.metadata["waited_seconds"]
    assert work.began == ["1", "2"]
    assert work.gauge("expired_requests_total", priority="evaluation") == 1
    await work.end("1")
    await work.end("2")
    assert len(work.began) == 2


async def test_a_caller_without_a_proper_name_is_refused() -> None:
    work = Work()
    work.start("x", caller="not a name")
    assert (await failure(work.tasks["x"], InvalidArgumentError)).reason == "CALLER_INVALID"


@pytest.mark.parametrize("seed", range(20))
async def test_no_place_is_lost_whoever_gives_up_when(seed: int) -> None:
    dice = random.Random(seed)
    work = Work(running=3, queued=20, queued_per_caller=10)
    actions: list[Callable[[str], object]] = [
        lambda name: work.tasks[name].cancel(),
        lambda name: work.ends[name].set(),
    ]
    for number in range(150):
        work.start(str(number), dice.choice(list(Priority)), dice.choice("abc"), dice.choice([None, None, 0.06]))
        if dice.random() < 0.7:
            dice.choice(actions)(dice.choice(list(work.tasks)))
        if dice.random() < 0.5:
            await asyncio.sleep(0)
        running = [work.gauge("running_requests", priority=each.name.lower()) or 0 for each in Priority]
        assert sum(running) <= 3
    for event in work.ends.values():
        event.set()
    await asyncio.gather(*work.tasks.values(), return_exceptions=True)
    assert work.gauge("engine_requests_running") == 0
    assert work.gauge("engine_requests_waiting") == 0


async def test_places_follow_the_number_of_servers() -> None:
    work = Work(running=2, running_per_call=1)
    for name in "123456":
        work.start(name)
    await settle()
    assert len(work.began) == 2
    work.admission.resize(2)
    await settle()
    assert len(work.began) == 4
    work.admission.resize(0)
    await work.end("1")
    await work.end("2")
    await work.end("3")
    assert work.began == ["1", "2", "3", "4", "5"]
    for name in "456":
        await work.end(name)
    assert work.gauge("engine_requests_running") == 0


async def test_a_call_may_hold_so_many_places_for_each_server() -> None:
    work = Work(running=4, running_per_call=2)
    work.admission.resize(2)
    places, ends = work.admission.open_call(), asyncio.Event()

    async def hold() -> None:
        async with places.place(EVALUATION, 1):
            await ends.wait()

    tasks = [asyncio.create_task(hold()) for _ in range(6)]
    await settle()
    assert work.gauge("engine_requests_running") == 4
    ends.set()
    await asyncio.gather(*tasks)

"""Whatever servers do: every request ends once, with its own answer, at a server that was thought to have its model."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.backend import Deployment
from services.generation.errors import ModelLostError
from services.generation.pool.targets import Lookup
from services.generation.requests import Sampling
from tests.fakes.inference_backend import FakeInferenceBackend
from tests.fakes.triton_pool import Servers, running_pool
from tests.patience import LONGEST_WAIT_SECONDS, until

NAMES = ("a", "b", "c")
MODELS = ("m", "n")
Step = tuple[str, str]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(("join", "leave", "vanish", "kill", "freeze", "return", "crash", "forget", "ask", "ask")),
        st.sampled_from(NAMES),
    ),
    max_size=30,
)


class History:
    """One sequence of events, and what became of the requests in it.

    Attributes:
        outcomes: how often each request ended, by its prompt.
        unknowing: requests that were sent to a server without the model, as far as the pool knew.
    """

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.listed = set(NAMES)
        self.outcomes: Counter[str] = Counter()
        self.unknowing: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.wrong: list[str] = []
        for name in NAMES:
            self._listen(name, servers[name])

    def _listen(self, name: str, server: FakeInferenceBackend) -> None:
        original = server.generate

        async def generate(model: str, prompt: str, *rest: Sampling, **more: object) -> object:
            member = self.servers.pool._members.get(name)
            if member is None or model not in member.names:
                self.unknowing.append(f"{prompt} at {name}")
            return await original(model, prompt, *rest, **more)  # type: ignore[arg-type]

        server.generate = generate  # type: ignore[method-assign, assignment]

    async def _ask(self, model: str, prompt: str) -> None:
        try:
            answer = await self.servers.pool.generate(
                model, prompt, Sampling(max_tokens=4, seed=1), truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS
            )
            if answer.text != f"{model}|{prompt}|1":
                self.wrong.append(answer.text)
        except ModelLostError:
            pass  # the lifecycle's, when nobody has it
        self.outcomes[prompt] += 1

    def ask(self, *models: str) -> None:
        """Begin a request of each model."""
        for model in models:
            self.tasks.append(asyncio.create_task(self._ask(model, f"prompt {len(self.tasks)}")))

    def step(self, what: str, name: str) -> None:
        """Let something happen to a server, or two requests come in."""
        server = self.servers[name]
        happenings: dict[str, Callable[[], object]] = {
            "join": lambda: self.listed.add(name),
            "leave": lambda: self.listed.discard(name),
            "vanish": self.listed.clear,
            "kill": server.kill,
            "freeze": lambda: setattr(server, "is_up", False),
            "return": lambda: setattr(server, "is_up", True),
            "crash": server.crash_engines,
            "forget": server.loaded.clear,
            "ask": lambda: self.ask(*MODELS),
        }
        happenings[what]()
        doubtful = frozenset() if self.listed else frozenset(NAMES)
        self.servers.lookup = Lookup(frozenset(self.listed), doubtful)

    async def recover(self) -> None:
        """Let every server be there again, and wait until each has every model."""
        for name in NAMES:
            self.servers[name].is_up = True
        self.servers.lookup = Lookup(frozenset(NAMES))
        for model in MODELS:
            await self.servers.have(model, *NAMES)
            for name in NAMES:
                server = self.servers[name]
                await until(lambda server=server, model=model: model in server.loaded)  # type: ignore[misc]


async def live(steps: Sequence[Step]) -> None:
    async with running_pool(*NAMES) as servers:
        for model in MODELS:
            await servers.pool.load(Deployment(model, f"/c/{model}", "float32"), timeout_seconds=LONGEST_WAIT_SECONDS)
        history = History(servers)
        for what, name in steps:
            history.step(what, name)
            await asyncio.sleep(0.001 if what in ("join", "leave", "kill", "return") else 0)
        await asyncio.gather(*history.tasks)
        assert history.outcomes == Counter({f"prompt {index}": 1 for index in range(len(history.tasks))})
        assert history.unknowing == []
        assert history.wrong == []
        await until(lambda: set(servers.pool._members) == set(history.listed) or not history.listed)
        await history.recover()
        ended = len(history.tasks)
        history.ask(*MODELS)
        await asyncio.gather(*history.tasks[ended:])
        assert all(each.in_flight == 0 for each in servers.pool._members.values())
        assert history.wrong == []


@settings(max_examples=40)
@given(STEPS)
def test_every_request_ends_once_and_every_server_ends_up_with_every_model(steps: Sequence[Step]) -> None:
    asyncio.run(live(steps))

"""Answers over real gRPC from the real servicer, on a fake inference server, also one that goes away in between."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from evalfleet.aio import AsyncFleet
from evalfleet.aio.connections import AsyncConnection
from evalfleet.answers import Answer, Sampling
from evalfleet.cli.app import cli
from evalfleet.connections import Connection
from evalfleet.errors import EvalFleetError, InvalidArgumentError, UnavailableError
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.window import GROUPS_KEY
from prometheus_client import CollectorRegistry

from services.generation.settings import GenerationSettings
from services.generation.wiring import wire_backend
from services.runtime.free_ports import free_port
from services.runtime.testing import run_in_process
from tests.fakes.inference_backend import FakeInferenceBackend, write_checkpoint
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.cli.json_shapes import assert_shape


class GenerationProcess:
    """The generation service on an event loop of its own, which a test may stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.backend = FakeInferenceBackend()
        self.checkpoint = write_checkpoint(folder / "checkpoints" / "m")
        self.settings = GenerationSettings(
            port=free_port("127.0.0.1"), state_dir=folder / "state", checkpoint_roots=str(folder / "checkpoints")
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._running = AsyncExitStack()

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(LONGEST_WAIT_SECONDS)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._running.aclose(), self._loop).result(LONGEST_WAIT_SECONDS)

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._running = AsyncExitStack()
        services = await self._running.enter_async_context(
            wire_backend(self.settings, CollectorRegistry(), self.backend)
        )
        await self._running.enter_async_context(run_in_process(*services, settings=self.settings))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[GenerationProcess]:
    process = GenerationProcess(tmp_path)
    process.start()
    yield process
    process.close()


@pytest.fixture
def fleet(service: GenerationProcess) -> Iterator[Fleet]:
    with Fleet.connect({"generation": f"127.0.0.1:{service.settings.port}"}) as fleet:
        fleet.models.add(service.checkpoint, model_id="m")
        yield fleet


def said(answer: object) -> str:
    assert isinstance(answer, Answer), answer
    return answer.text.split("|")[1]


def test_one_answer_and_its_cost(fleet: Fleet) -> None:
    answer = fleet.generation.generate("m", [("user", "hi")], Sampling(temperature=1.0, seed=1), samples=2)
    assert [text.split("|")[1] for text in answer.texts] == ["user: hi"] * 2
    assert answer.finish_reasons == ("stop", "stop")
    assert answer.prompt_tokens == len("user: hi")
    assert answer.model_digest


def test_an_answer_grows(fleet: Fleet) -> None:
    *pieces, answer = fleet.generation.generate_tokens("m", "hi")
    assert isinstance(answer, Answer)
    assert "".join(map(str, pieces)) == answer.text


def test_many_answers_come_with_their_index_and_bad_prompts_with_their_error(fleet: Fleet) -> None:
    prompts = [f"p{number}" if number != 7 else "" for number in range(200)]
    answers = dict(fleet.generation.generate_many("m", prompts, priority="background"))
    assert isinstance(answers.pop(7), InvalidArgumentError)
    assert {number: said(answer) for number, answer in answers.items()} == {
        number: f"p{number}" for number in range(200) if number != 7
    }


def test_a_service_that_restarts_in_between_loses_and_repeats_nothing(service: GenerationProcess, fleet: Fleet) -> None:
    numbers: list[int] = []
    for number, answer in fleet.generation.generate_many("m", (f"p{n}" for n in range(300))):
        assert said(answer) == f"p{number}"
        numbers.append(number)
        if len(numbers) == 20:
            service.stop()
            service.start()
    assert sorted(numbers) == list(range(300))


def test_what_the_prompts_raise_reaches_the_caller(fleet: Fleet) -> None:
    def prompts() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(fleet.generation.generate_many("m", prompts()))


def test_a_service_that_stays_away_is_given_up(service: GenerationProcess, fleet: Fleet) -> None:
    service.stop()
    with pytest.raises(UnavailableError):
        list(fleet.generation.generate_many("m", ["a"], patience_seconds=0.1))


def test_scores_come_in_order(fleet: Fleet) -> None:
    scores = fleet.generation.score_continuations("m", "context", ["a", "bcd"])
    assert [(each.log_likelihood, each.is_greedy, each.token_count) for each in scores] == [
        (-1.0, True, 1),
        (-3.0, False, 3),
    ]


def test_a_batch_has_an_answer_or_an_error_a_prompt(fleet: Fleet) -> None:
    answers = fleet.generation.generate_batch("m", ["a", "", "\udfff", *(f"p{number}" for number in range(300))])
    assert said(answers[0]) == "a"
    assert [each.reason for each in answers[1:3] if isinstance(each, InvalidArgumentError)][1] == "TEXT_NOT_UTF8"
    assert [said(each) for each in answers[3:]] == [f"p{number}" for number in range(300)]


def test_continuations_of_many_contexts_come_with_their_index(fleet: Fleet) -> None:
    questions = [("context", ["a", "b" * number]) for number in range(200)]
    scored = dict(fleet.generation.score_continuations_many("m", questions))
    assert isinstance(scored.pop(0), InvalidArgumentError), "an empty continuation"
    for number, scores in scored.items():
        assert not isinstance(scores, EvalFleetError), scores
        assert [each.log_likelihood for each in scores] == [-1.0, -float(number)]


async def test_the_service_says_that_it_reads_messages_of_several_items(service: GenerationProcess) -> None:
    # The request streams stay open meanwhile: of a call whose status arrives together with its initial metadata,
    # grpc.aio may tell the status alone.
    target = f"127.0.0.1:{service.settings.port}"

    def blocking() -> str:
        is_told = threading.Event()

        def silence() -> Iterator[generation_pb2.StreamGenerateRequest]:
            is_told.wait()
            yield from ()

        with Connection("generation", target) as connection:
            stub = connection.stub(generation_pb2_grpc.GenerationServiceStub)
            try:
                return connection.open_exchange(stub.StreamGenerate, silence()).said_at_first(GROUPS_KEY)
            finally:
                is_told.set()

    async def silence() -> AsyncIterator[generation_pb2.StreamGenerateRequest]:
        await asyncio.Event().wait()
        yield generation_pb2.StreamGenerateRequest()

    assert await asyncio.to_thread(blocking) == "1"
    async with AsyncConnection("generation", target) as awaited:
        stub: Any = awaited.stub(generation_pb2_grpc.GenerationServiceStub)
        assert await awaited.open_exchange(stub.StreamGenerate, silence()).said_at_first(GROUPS_KEY) == "1"


async def test_awaited_continuations_and_batches_say_the_same(service: GenerationProcess, fleet: Fleet) -> None:
    questions = [("context", ["a", "bc"])] * 100
    async with AsyncFleet.connect({"generation": f"127.0.0.1:{service.settings.port}"}) as awaited:
        scored = [each async for each in awaited.generation.score_continuations_many("m", questions, in_order=True)]
        answers = await awaited.generation.generate_batch("m", ["a"])
        usage = await awaited.generation.caller_usage()
    assert scored == list(fleet.generation.score_continuations_many("m", questions, in_order=True))
    assert said(answers[0]) == "a"
    assert [(each.caller, each.usage.prompt_tokens > 0) for each in usage] == [("anonymous", True)]
    assert usage[0].request_count >= 101
    assert usage[0].first_time is not None


def test_the_command_line_shows_an_answer(service: GenerationProcess, fleet: Fleet) -> None:
    endpoint = f"--endpoint=generation=127.0.0.1:{service.settings.port}"
    shown = CliRunner().invoke(cli, [endpoint, "generate", "m", "hi", "--system", "be [b]nice[/b]"])
    assert shown.exit_code == 0, shown.output
    assert "system: be [b]nice[/b]\nuser: hi" in shown.output
    assert "tokens, stop" in shown.output
    told = CliRunner().invoke(cli, [endpoint, "generate", "m", "hi", "--json"])
    assert_shape(json.loads(told.stdout), Answer)
    assert "user: hi" in json.loads(told.stdout)["texts"][0]
    wrong = CliRunner().invoke(cli, [endpoint, "generate", "m", "hi", "--raw", "--system", "x"])
    assert wrong.exit_code == 2

"""Requests over several servers: spread, moved when a server has lost their model, never doubled and never lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from services.generation.backend import Deployment, EngineAnswer
from services.generation.errors import CheckpointError, ModelLostError
from services.generation.requests import Sampling, TextPiece
from services.runtime.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from tests.fakes.triton_pool import Servers, running_pool
from tests.patience import LONGEST_WAIT_SECONDS, has_begun, until

GREEDY = Sampling(max_tokens=4, seed=7)


def model(name: str = "m") -> Deployment:
    return Deployment(name, f"/c/{name}", "float32")


async def load(servers: Servers, name: str = "m") -> None:
    await servers.pool.load(model(name), timeout_seconds=LONGEST_WAIT_SECONDS)


async def load_everywhere(servers: Servers, name: str) -> None:
    """Load something and wait until all have it; what they were to get before, they have been given by then."""
    await load(servers, name)
    await servers.have(name, *servers.by_name)


async def ask(servers: Servers, name: str = "m", prompt: str = "p") -> str:
    answer = await servers.pool.generate(name, prompt, GREEDY, truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    return answer.text


def begin(servers: Servers, count: int) -> list["asyncio.Task[str]"]:
    return [asyncio.create_task(ask(servers, prompt=str(index))) for index in range(count)]


async def pieces_of(servers: Servers) -> list[TextPiece | EngineAnswer]:
    pieces = servers.pool.generate_pieces("m", "p", GREEDY, truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    async with aclosing(pieces):
        return [each async for each in pieces]


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with running_pool("a", "b", "c") as servers:
        yield servers


@pytest.fixture
async def loaded(servers: Servers) -> Servers:
    await load(servers)
    await servers.have("m", "a", "b", "c")
    return servers


async def test_a_load_reaches_every_member_and_returns_with_the_first(servers: Servers) -> None:
    servers["b"].load_gate = asyncio.Event()
    servers["c"].load_gate = asyncio.Event()
    await load(servers)
    assert await servers.pool.loaded_names(timeout_seconds=1) == {"m"}
    assert await ask(servers) == "m|p|7"
    assert [len(servers[each].loads) for each in "abc"] == [1, 1, 1]
    assert not servers["b"].loaded
    servers["b"].load_gate.set()
    servers["c"].load_gate.set()
    await servers.have("m", "a", "b", "c")


async def test_requests_go_where_the_fewest_are(loaded: Servers) -> None:
    gates = [loaded[each] for each in "abc"]
    for each in gates:
        each.gate = asyncio.Event()
    tasks = begin(loaded, 9)
    await until(lambda: sum(each.in_flight for each in gates) == 9)
    assert [each.in_flight for each in gates] == [3, 3, 3]
    freed = loaded["b"].gate
    assert freed is not None
    loaded["b"].gate = asyncio.Event()
    freed.set()
    await until(lambda: loaded["b"].in_flight == 0)
    tasks += begin(loaded, 3)
    await until(lambda: loaded["b"].in_flight == 3)
    for each in gates:
        assert each.gate is not None
        each.gate.set()
    assert len(await asyncio.gather(*tasks)) == 12


async def test_one_after_the_other_they_take_turns(loaded: Servers) -> None:
    for index in range(9):
        await ask(loaded, prompt=str(index))
    assert [len(loaded[each].samplings) for each in "abc"] == [3, 3, 3]


async def test_answers_do_not_depend_on_the_member(loaded: Servers) -> None:
    assert {await ask(loaded) for _ in range(6)} == {"m|p|7"}
    scored = [
        await loaded.pool.score("m", "p", ["x", "yy"], truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
        for _ in range(3)
    ]
    assert scored[0] == scored[1] == scored[2]


async def test_a_request_moves_when_its_member_is_killed_and_the_member_gets_the_model_back(loaded: Servers) -> None:
    for each in "abc":
        loaded[each].gate = asyncio.Event()
    tasks = begin(loaded, 6)
    await until(lambda: all(loaded[each].in_flight == 2 for each in "abc"))
    loaded["a"].kill()
    for each in "abc":
        gate = loaded[each].gate
        assert gate is not None
        gate.set()
    assert await asyncio.gather(*tasks) == [f"m|{index}|7" for index in range(6)]
    assert loaded.pool.moved_requests == 2
    await until(lambda: (loaded.pool.ready_count, loaded.pool.away_count) == (2, 1))
    asked = len(loaded["a"].samplings)
    assert await asyncio.gather(*begin(loaded, 4))
    assert len(loaded["a"].samplings) == asked, "a server that is away was asked"
    loaded["a"].is_up = True
    await until(lambda: loaded.pool.ready_count == 3 and "m" in loaded["a"].loaded)
    await loaded.have("m", "a")


async def test_a_crashed_engine_is_unloaded_and_loaded_where_it_crashed_alone(loaded: Servers) -> None:
    loaded["b"].crash_engines()
    for _ in range(3):
        assert await ask(loaded) == "m|p|7"
    await until(lambda: not loaded["b"].crashed and "m" in loaded["b"].loaded)
    await loaded.have("m", "b")
    assert loaded.pool.moved_requests == 1
    assert [loaded[each].unloads for each in "abc"] == [[], ["m"], []]


async def test_when_nobody_has_it_the_loss_is_told_once(loaded: Servers) -> None:
    for each in "abc":
        loaded[each].kill()
    with pytest.raises(ModelLostError) as caught:
        await ask(loaded)
    assert not caught.value.engine_crashed
    assert sum(len(loaded[each].samplings) for each in "abc") == 3
    with pytest.raises(ModelLostError):
        await load(loaded)
    with pytest.raises(ModelLostError):
        await loaded.pool.memory_bytes(timeout_seconds=1)
    with pytest.raises(ModelLostError):
        await loaded.pool.loaded_names(timeout_seconds=1)  # which is not that nothing is loaded
    with pytest.raises(ModelLostError):
        await loaded.pool.unload("m", timeout_seconds=1)
    assert not await loaded.pool.is_ready()


async def test_a_request_of_a_model_that_was_never_loaded_reaches_nobody(loaded: Servers) -> None:
    with pytest.raises(ModelLostError) as caught:
        await ask(loaded, "other")
    assert caught.value.reason == "MODEL_NOT_LOADED"
    assert not any(loaded[each].samplings for each in "abc")


async def test_errors_of_the_request_are_not_tried_elsewhere(loaded: Servers) -> None:
    for each in "abc":
        loaded[each].failures["p"] = InvalidArgumentError("too long", reason="PROMPT_TOO_LONG")
    with pytest.raises(InvalidArgumentError):
        await ask(loaded)
    assert loaded.pool.moved_requests == 0


async def test_pieces_move_before_the_first_and_are_never_doubled(loaded: Servers) -> None:
    whole = await pieces_of(loaded)
    loaded["b"].kill()  # whose turn it is
    assert await pieces_of(loaded) == whole
    assert loaded.pool.moved_requests == 1
    loaded["c"].lose_after = loaded["a"].lose_after = 2
    with pytest.raises(UnavailableError) as caught:
        await pieces_of(loaded)
    # Others have it: the lifecycle is not to load it.
    assert not isinstance(caught.value, ModelLostError)


async def test_pieces_that_break_off_at_the_last_member_are_a_loss() -> None:
    async with running_pool("a") as servers:
        await load(servers)
        servers["a"].lose_after = 2
        with pytest.raises(ModelLostError):
            await pieces_of(servers)


async def test_leaving_an_answer_stops_the_engine(loaded: Servers) -> None:
    loaded["a"].piece_gate = asyncio.Event()
    pieces = loaded.pool.generate_pieces("m", "p", GREEDY, truncate=False, timeout_seconds=LONGEST_WAIT_SECONDS)
    await anext(pieces)
    await pieces.aclose()
    assert (loaded["a"].cancelled, loaded["a"].in_flight) == (1, 0)


async def test_errors_of_the_checkpoint_are_reported_and_others_wait_for_whoever_can(servers: Servers) -> None:
    for each in "abc":
        servers[each].load_errors = [CheckpointError(f"broken at {each}")]
    with pytest.raises(CheckpointError):
        await load(servers)
    assert not await servers.pool.loaded_names(timeout_seconds=1)
    servers["a"].load_errors = [CheckpointError("no room")]
    servers["b"].kill()
    await load(servers)
    assert await servers.pool.loaded_names(timeout_seconds=1) == {"m"}


async def test_a_member_that_comes_gets_what_is_wanted_the_latest_first(servers: Servers) -> None:
    for name in ("m1", "m2", "m3"):
        await load(servers, name)
    await servers.pool.unload("m2", timeout_seconds=1)
    await servers.ready("a", "b", "c", "d")
    await servers.have("m1", "d")
    assert servers["d"].loads == ["m3", "m1"]


async def test_a_member_that_comes_gets_what_an_earlier_process_loaded() -> None:
    async with running_pool() as servers:
        servers.connect("a")
        await servers["a"].load(model(), timeout_seconds=1)
        servers.pool.adopt(model())
        await servers.ready("a", "b")
        await servers.have("m", "a", "b")
        assert await ask(servers) == "m|p|7"


async def test_a_checkpoint_that_was_written_again_is_not_spread(servers: Servers) -> None:
    await load(servers)
    servers.changed["m"] = CheckpointError("changed", reason="CHECKPOINT_CHANGED")
    await servers.ready("a", "b", "c", "d")
    await load_everywhere(servers, "n")
    assert servers["d"].loads == ["n"]


async def test_files_that_change_while_a_further_member_reads_them_are_unloaded_there(servers: Servers) -> None:
    await load(servers)
    servers.connect("d")
    servers["d"].load_gate = asyncio.Event()
    await servers.ready("a", "b", "c", "d")
    await servers["d"].loading.wait()
    servers.changed["m"] = CheckpointError("changed", reason="CHECKPOINT_CHANGED")
    servers["d"].load_gate.set()
    await until(lambda: servers["d"].unloads == ["m"])
    assert "m" not in servers.pool._members["d"].names


async def test_what_was_unloaded_while_a_member_was_away_goes_when_it_is_back(loaded: Servers) -> None:
    loaded["b"].is_up = False
    await until(lambda: loaded.pool.ready_count == 2)
    await loaded.pool.unload("m", timeout_seconds=1)
    assert "m" in loaded["b"].loaded
    loaded["b"].is_up = True
    await until(lambda: "m" not in loaded["b"].loaded)
    assert not await loaded.pool.loaded_names(timeout_seconds=1)


async def test_a_load_that_is_given_up_is_not_wanted_and_one_in_the_background_ends_with_the_unload(
    servers: Servers,
) -> None:
    servers["b"].load_gate = asyncio.Event()
    await load(servers)
    await servers["b"].loading.wait()
    await servers.pool.unload("m", timeout_seconds=LONGEST_WAIT_SECONDS)
    servers["b"].load_gate.set()
    for each in "abc":
        servers[each].load_gate = asyncio.Event()
    loading = asyncio.create_task(load(servers, "n"))
    assert await has_begun(loading, servers["c"].loading)
    loading.cancel()
    await asyncio.wait([loading])
    for each in "abc":
        gate = servers[each].load_gate
        assert gate is not None
        gate.set()
    await servers.ready("a", "b", "c", "d")
    await load_everywhere(servers, "o")
    assert servers["d"].loads == ["o"]
    assert [set(servers[each].loaded) for each in "abcd"] == [{"o"}] * 4


async def test_a_member_that_leaves_ends_its_requests_first(loaded: Servers) -> None:
    loaded["a"].gate = asyncio.Event()
    [task] = begin(loaded, 1)
    await until(lambda: loaded["a"].in_flight == 1)
    await loaded.are("b", "c")
    assert loaded.closed == []
    for _ in range(4):
        await ask(loaded)
    assert len(loaded["a"].samplings) == 1
    loaded["a"].gate.set()
    assert await task == "m|0|7"
    await until(lambda: loaded.closed == ["a"])


async def test_a_name_without_addresses_keeps_those_that_answer(loaded: Servers) -> None:
    loaded["c"].is_up = False
    await until(lambda: loaded.pool.ready_count == 2)
    await loaded.are(doubtful=("a", "b", "c"))
    assert (loaded.pool.ready_count, loaded.pool.away_count) == (2, 0)
    assert await ask(loaded) == "m|p|7"
    loaded["a"].kill()
    loaded["b"].kill()
    await until(lambda: sorted(loaded.closed) == ["a", "b", "c"])


async def test_one_that_comes_back_after_it_left_is_a_member_again(loaded: Servers) -> None:
    await loaded.are("b", "c")
    await until(lambda: loaded.closed == ["a"])
    await loaded.ready("a", "b", "c")
    await loaded.have("m", "a")
    assert loaded["a"].loads == ["m"], "what it still had was loaded again"


async def test_a_silent_member_takes_nothing_from_the_others(loaded: Servers) -> None:
    loaded["b"].list_gate = asyncio.Event()
    await until(lambda: loaded["b"].lists > 0)
    assert await loaded.pool.loaded_names(timeout_seconds=1) == {"m"}
    assert await ask(loaded) == "m|p|7"


async def test_what_only_the_slower_has_is_known_before_the_first_load() -> None:
    async with running_pool() as servers:
        assert not await servers.pool.is_ready()
        for name in ("a", "b"):
            servers.connect(name)
        servers["b"].list_gate = asyncio.Event()
        await servers["b"].load(model(), timeout_seconds=1)
        await servers.are("a", "b")
        await until(lambda: servers.pool.ready_count == 1)
        assert not await servers.pool.is_ready()
        servers["b"].list_gate.set()
        await until(lambda: servers.pool.ready_count == 2)
        assert await servers.pool.is_ready()
        assert await servers.pool.loaded_names(timeout_seconds=1) == {"m"}


async def test_the_smallest_memory_counts(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def small(*, timeout_seconds: float) -> int:
        return 1 << 20

    monkeypatch.setattr(servers["b"], "memory_bytes", small)
    assert await servers.pool.memory_bytes(timeout_seconds=1) == 1 << 20
    servers["b"].is_up = False
    await until(lambda: servers.pool.ready_count == 2)
    assert await servers.pool.memory_bytes(timeout_seconds=1) == 1 << 30


async def test_whoever_counts_is_told(servers: Servers) -> None:
    told: list[int] = []
    servers.pool.count_for(told.append)
    servers["b"].is_up = False
    await until(lambda: told[-1] == 2)
    await servers.are("a", "b")
    assert told == [3, 2, 1]


async def test_a_deadline_is_shared_by_all_that_are_asked(loaded: Servers) -> None:
    loaded["a"].kill()
    answer = await loaded.pool.generate("m", "p", GREEDY, truncate=False, timeout_seconds=5.0)
    assert answer.text == "m|p|7"
    assert 0 < loaded["b"].timeouts[-1] < loaded["a"].timeouts[-1] <= 5.0


async def test_an_unload_that_one_member_does_not_finish_is_an_error_and_finished_later(loaded: Servers) -> None:
    loaded["b"].unload_errors = [DeadlineExceededError("busy")]
    with pytest.raises(DeadlineExceededError):
        await loaded.pool.unload("m", timeout_seconds=1)
    await until(lambda: not any("m" in loaded[each].loaded for each in "abc"))


async def test_a_member_whose_upkeep_fails_is_made_anew(loaded: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*, timeout_seconds: float) -> frozenset[str]:
        monkeypatch.undo()
        raise RuntimeError("a mistake of ours")

    former = loaded.pool._members["a"]
    monkeypatch.setattr(loaded["a"], "loaded_names", broken)
    await until(lambda: loaded.closed == ["a"] and loaded.pool.ready_count == 3)
    assert loaded.pool._members["a"] is not former


async def test_members_are_warmed_up_once_and_what_goes_wrong_then_keeps_nothing_from_them(servers: Servers) -> None:
    servers.warming_fails = UnavailableError("no room yet")
    await servers.ready("a", "b", "c", "d")
    await load_everywhere(servers, "m")
    await servers.ready("a", "b", "c", "d", "e")
    await servers.have("m", "e")
    assert sorted(servers.warmed) == ["a", "b", "c", "d", "e"]

import random
import socket
from collections.abc import Iterator

import pytest

from services.runtime.free_ports import ephemeral_start
from services.standalone import ports
from services.standalone.errors import BadOptionError, PortTakenError
from services.standalone.ports import BLOCK_SIZE, PortBlock, take_ports


@pytest.fixture
def block() -> PortBlock:
    return take_ports(0)


@pytest.fixture
def listener(block: PortBlock) -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", block.grpc("scoring")))
        listening.listen()
        yield listening


def test_ports_are_laid_out_from_the_base() -> None:
    block = PortBlock(8100)
    assert [block.grpc(each) for each in ("evaluation", "generation", "safety", "scoring", "aggregation")] == [
        8100,
        8101,
        8102,
        8103,
        8104,
    ]
    assert (block.grpc("inference"), block.metrics("inference")) == (8110, 8111)
    assert (block.metrics("evaluation"), block.metrics("aggregation")) == (8120, 8124)
    numbers = [port for port, _ in block.purposes()]
    assert len(numbers) == len(set(numbers)) == 12
    assert max(numbers) < block.base + BLOCK_SIZE


def test_a_taken_port_is_named_with_its_purpose_and_the_option(block: PortBlock, listener: socket.socket) -> None:
    with pytest.raises(PortTakenError) as caught:
        take_ports(block.base)
    taken = block.grpc("scoring")
    assert str(caught.value) == (
        f"port {taken}, for scoring, cannot be used: address already in use; another fleet may be running: "
        "choose other ports with --port-base PORT, or --port-base 0 for free ones"
    )
    assert caught.value.metadata == {"port": str(taken), "purpose": "scoring"}


def test_a_free_block_is_found_beside_a_taken_one(
    block: PortBlock, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [block.base, block.base]
    choose = random.randint
    monkeypatch.setattr("random.randint", lambda *limits: chosen.pop() if chosen else choose(*limits))
    assert take_ports(0).base != block.base
    assert not chosen


def test_free_blocks_lie_below_the_ports_of_outgoing_connections() -> None:
    assert all(10_240 <= take_ports(0).base <= ephemeral_start() - BLOCK_SIZE for _ in range(5))


def test_the_search_for_free_ports_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_obstacle", lambda _port: "address already in use")
    with pytest.raises(BadOptionError, match="--port-base"):
        take_ports(0)


@pytest.mark.parametrize("base", [-1, 65_536 - BLOCK_SIZE + 1, 70_000])
def test_a_base_without_room_is_refused(base: int) -> None:
    with pytest.raises(BadOptionError, match="choose 1 to 65511, or 0"):
        take_ports(base)


def test_the_last_block_ends_with_the_last_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_obstacle", lambda _port: None)
    assert take_ports(65_536 - BLOCK_SIZE).metrics("aggregation") == 65_535

"""Free ports: bindable, below those of outgoing connections where there is room, and anywhere else if not."""

import socket
from pathlib import Path

import pytest

from services.runtime import free_ports
from services.runtime.free_ports import LOWEST_FREE, ephemeral_start, free_port

HOST = "127.0.0.1"


def test_a_free_port_lies_below_those_of_outgoing_connections_and_can_be_listened_on() -> None:
    port = free_port(HOST)
    assert LOWEST_FREE <= port < ephemeral_start()
    with socket.socket() as listening:
        listening.bind((HOST, port))
        listening.listen()


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chance:
        """Names the taken port first."""

        def __init__(self, *ports: int) -> None:
            self._ports = list(ports)

        def randint(self, lowest: int, highest: int) -> int:
            return self._ports.pop(0)

    free = free_port(HOST)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        monkeypatch.setattr(free_ports, "_CHANCE", Chance(taken.getsockname()[1], free))
        assert free_port(HOST) == free


@pytest.mark.parametrize("told", ["1024 65535", "", "nonsense", None])
def test_where_the_system_keeps_no_room_or_says_nothing_there_is_a_port_all_the_same(
    told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is not None:
        (tmp_path / "range").write_text(told)
    monkeypatch.setattr(free_ports, "_EPHEMERAL_RANGE", tmp_path / "range")
    assert 0 < free_port(HOST) < 65_536

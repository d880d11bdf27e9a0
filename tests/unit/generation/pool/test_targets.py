"""What is looked up, what is an address already, and what DNS' silence means."""

import asyncio
import socket

import pytest

from services.generation.pool.targets import Lookup, TritonTargets, resolve_host
from services.generation.settings import GenerationSettings


class Names:
    """Answers for DNS; an exception in place of addresses is raised."""

    def __init__(self, **addresses: set[str] | OSError) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> frozenset[str]:
        self.asked.append(host)
        found = self.addresses[host]
        if isinstance(found, OSError):
            raise found
        return frozenset(f"{each}:{port}" for each in found)


GONE = socket.gaierror(socket.EAI_NONAME, "no such name")
SILENT = socket.gaierror(socket.EAI_AGAIN, "try again")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:8001",
        "dns:///10.0.0.7:8001",
        "[::1]:8001",
        "unix:///run/triton",
        "ipv4:10.0.0.7:8001",
        "triton",
        " 10.0.0.7:8001 ,",
    ],
)
async def test_one_address_is_not_looked_up(text: str) -> None:
    names = Names()
    targets = TritonTargets(text, names)
    assert targets.only_address == text.strip(" ,")
    assert await targets.look_up() == Lookup(frozenset({text.strip(" ,")}))
    assert names.asked == []


@pytest.mark.parametrize("text", ["triton:8001", "dns:triton:8001", "dns:///triton:8001"])
async def test_every_address_of_a_name_is_a_member(text: str) -> None:
    targets = TritonTargets(text, Names(triton={"10.0.0.1", "10.0.0.2"}))
    assert targets.only_address is None
    assert (await targets.look_up()).present == {"10.0.0.1:8001", "10.0.0.2:8001"}


async def test_names_and_addresses_may_be_mixed_and_count_once() -> None:
    targets = TritonTargets("a:1, b:1,10.0.0.9:1,10.0.0.9:1", Names(a={"10.0.0.1"}, b={"10.0.0.1", "10.0.0.2"}))
    assert targets.only_address is None
    assert (await targets.look_up()).present == {"10.0.0.1:1", "10.0.0.2:1", "10.0.0.9:1"}


async def test_a_resolver_that_fails_changes_nothing_and_a_name_that_is_gone_makes_its_members_doubtful() -> None:
    names = Names(a={"10.0.0.1"}, b={"10.0.0.2"})
    targets = TritonTargets("a:1,b:1", names)
    assert await targets.look_up() == Lookup(frozenset({"10.0.0.1:1", "10.0.0.2:1"}))
    names.addresses["a"] = SILENT
    assert await targets.look_up() == Lookup(frozenset({"10.0.0.1:1", "10.0.0.2:1"}))
    names.addresses["a"] = GONE
    assert await targets.look_up() == Lookup(frozenset({"10.0.0.2:1"}), frozenset({"10.0.0.1:1"}))
    names.addresses |= {"a": {"10.0.0.3"}, "b": SILENT}
    assert await targets.look_up() == Lookup(frozenset({"10.0.0.3:1", "10.0.0.2:1"}))


async def test_a_server_with_addresses_of_both_families_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::7", 8001, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.7", 8001)),
    ]

    async def answer(*_: object, **__: object) -> object:
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer)
    assert await resolve_host("triton", 8001) == {"10.0.0.7:8001"}
    del found[1]
    assert await resolve_host("triton", 8001) == {"[fd00::7]:8001"}


async def test_the_systems_resolver_is_asked() -> None:
    assert await resolve_host("localhost", 8001) <= {"127.0.0.1:8001", "[::1]:8001"}


@pytest.mark.parametrize("text", ["", " , "])
def test_no_target_at_all_is_a_mistake(text: str) -> None:
    with pytest.raises(ValueError, match="at least one target"):
        GenerationSettings(triton_target=text)

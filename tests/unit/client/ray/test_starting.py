"""Starting a Ray of our own, without Ray: what is tried again, and what is said in the end."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from evalfleet.ray.running import LOCAL, BulkError, started_ray


class ScriptedRay(SimpleNamespace):
    """Stands in for the module ``ray``: its processes come up after so many attempts."""

    def __init__(self, failures: int) -> None:
        super().__init__(failures=failures, addresses=[], shutdowns=0)

    def is_initialized(self) -> bool:
        return False

    def init(self, *, address: str, **options: Any) -> None:
        assert len(self.addresses) == self.shutdowns, "what came up of an earlier attempt is still there"
        self.addresses.append(address)
        if len(self.addresses) <= self.failures:
            raise RuntimeError("Timed out waiting for file /tmp/ray/session/gcs_server_port")

    def shutdown(self) -> None:
        self.shutdowns += 1


def scripted(monkeypatch: pytest.MonkeyPatch, failures: int) -> ScriptedRay:
    ray = ScriptedRay(failures)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_a_ray_of_our_own_that_does_not_come_up_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = scripted(monkeypatch, failures=2)
    with started_ray():
        assert ray.addresses == [LOCAL] * 3
        assert ray.shutdowns == 2
    assert ray.shutdowns == 3


@pytest.mark.parametrize(("address", "attempts"), [(LOCAL, 3), ("ray://head:10001", 1)])
def test_a_ray_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, address: str, attempts: int) -> None:
    ray = scripted(monkeypatch, failures=9)
    with pytest.raises(BulkError, match=f"Ray at {address} cannot be used: Timed out") as caught, started_ray(address):
        pytest.fail("the block is not entered")
    assert caught.value.reason == "RAY_UNREACHABLE"
    assert len(ray.addresses) == attempts

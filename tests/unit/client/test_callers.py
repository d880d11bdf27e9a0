import pytest
from evalfleet.connections import CALLER_KEY, Connection
from evalfleet.fleet import CALLER_VARIABLE, Fleet

from tests.fakes.fleet import FakeFleet


class Recorder:
    """Stands for a stub's method and notes the metadata of its calls."""

    def __init__(self) -> None:
        self.metadata: list[object] = []

    def __call__(self, request: object, *, timeout: float = 0.0, metadata: object = None) -> object:
        self.metadata.append(metadata)
        return request


def test_a_connection_names_its_caller() -> None:
    recorder = Recorder()
    with Connection("evaluation", "127.0.0.1:1", caller="team/a") as named, Connection("x", "127.0.0.1:1") as nameless:
        named.call(recorder, "request")  # type: ignore[arg-type]
        nameless.call(recorder, "request")  # type: ignore[arg-type]
    assert recorder.metadata == [((CALLER_KEY, "team/a"),), ()]


@pytest.mark.parametrize(("given", "expected"), [(None, "from/environment"), ("given", "given"), ("", "")])
def test_the_caller_comes_from_the_argument_or_the_environment(
    fake: FakeFleet, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    callers: list[str] = []

    def connect(service: str, target: str, *, caller: str) -> Connection:
        callers.append(caller)
        return Connection(service, target, caller=caller)

    monkeypatch.setattr("evalfleet.fleet.Connection", connect)
    monkeypatch.setenv(CALLER_VARIABLE, "from/environment")
    with Fleet.connect(fake.targets, caller=given) as fleet:
        fleet.suites.get("demo")
    assert callers == [expected]

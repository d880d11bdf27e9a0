import pytest
from evalfleet.client_settings import CALLER_KEY, CALLER_VARIABLE, REQUEST_ID_KEY, ClientSettings
from evalfleet.connections import Connection
from evalfleet.fleet import Fleet

from tests.fakes.fleet import FakeFleet


class Recorder:
    """Stands for a stub's method and notes the metadata of its calls."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []

    def __call__(self, request: object, *, timeout: float = 0.0, metadata: tuple[tuple[str, str], ...] = ()) -> object:
        self.metadata.append(dict(metadata))
        return request


def test_a_connection_names_its_caller() -> None:
    recorder = Recorder()
    settings = ClientSettings(caller="team/a")
    with Connection("evaluation", "127.0.0.1:1", settings) as named, Connection("x", "127.0.0.1:1") as nameless:
        named.call(recorder, "request")  # type: ignore[arg-type]
        nameless.call(recorder, "request")  # type: ignore[arg-type]
    assert [each.get(CALLER_KEY) for each in recorder.metadata] == ["team/a", None]
    assert [set(each) - {CALLER_KEY} for each in recorder.metadata] == [{REQUEST_ID_KEY}] * 2


@pytest.mark.parametrize(("given", "expected"), [(None, "from/environment"), ("given", "given"), ("", "")])
def test_the_caller_comes_from_the_argument_or_the_environment(
    fake: FakeFleet, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    callers: list[str] = []

    def connect(service: str, target: str, settings: ClientSettings) -> Connection:
        callers.append(settings.caller)
        return Connection(service, target, settings)

    monkeypatch.setattr("evalfleet.fleet.Connection", connect)
    monkeypatch.setenv(CALLER_VARIABLE, "from/environment")
    with Fleet.connect(fake.targets, caller=given) as fleet:
        fleet.suites.get("demo")
    assert callers == [expected]

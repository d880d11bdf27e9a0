"""Settings come from the environment, are documented, cannot change, and say which variable is wrong."""

import os
from pathlib import Path

import pytest
from evalfleet.window import LONGEST_STREAM_SECONDS, TAKING_SECONDS
from pydantic import Field, ValidationError
from structlog.testing import capture_logs

from services.evaluation.runs import item_streams
from services.runtime.entry import read_settings, warn_of_misspelled_settings
from services.runtime.errors import StartupError
from services.runtime.settings import ServiceSettings


class ExampleSettings(ServiceSettings):
    port: int = Field(50053, ge=0, le=65535, description="gRPC port.")
    guard: str = Field(description="Name of the guard.")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("EVALFLEET_"):
            monkeypatch.delenv(variable)


def test_every_setting_is_documented() -> None:
    assert all(field.description for field in ServiceSettings.model_fields.values())


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLEET_GUARD", "minilm")
    monkeypatch.setenv("EVALFLEET_DRAIN_GRACE_SECONDS", "1.5")
    monkeypatch.setenv("EVALFLEET_READY_FILE", "somewhere/ready")
    monkeypatch.setenv("EVALFLEET_HOST", "")  # as compose files leave it
    settings = read_settings(ExampleSettings)
    assert (settings.guard, settings.drain_grace_seconds, settings.port) == ("minilm", 1.5, 50053)
    assert settings.ready_file == Path("somewhere/ready")
    assert settings.host == "127.0.0.1"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ServiceSettings().port = 1  # type: ignore[misc]


def test_bad_values_are_named_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALFLEET_PORT", "http")
    monkeypatch.setenv("EVALFLEET_LOG_FORMAT", "xml")
    with pytest.raises(StartupError) as caught:
        read_settings(ExampleSettings)
    message = caught.value.message
    assert "EVALFLEET_PORT='http': " in message
    assert "EVALFLEET_LOG_FORMAT='xml': " in message
    assert "EVALFLEET_GUARD is missing" in message
    assert "\n" not in message


def test_a_misspelled_variable_is_pointed_out() -> None:
    environment = {"EVALFLEET_PROT": "1", "EVALFLEET_DATA_DIR": "x", "EVALFLEET_GUARD": "g", "PATH": "y"}
    with capture_logs() as lines:
        warn_of_misspelled_settings(ExampleSettings, environment)
    assert [(line["variable"], line["nearest"]) for line in lines] == [("EVALFLEET_PROT", "EVALFLEET_PORT")]


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, LONGEST_STREAM_SECONDS),
        ({"guard_timeout_seconds": 7200}, 7200),
        ({"default_deadline_seconds": 5000}, 5000),
        ({"guard_timeout_seconds": 7200, "max_connection_grace_seconds": 20}, 20),
    ],
)
def test_a_renewed_connection_waits_for_the_longest_call_that_the_service_allows(
    limits: dict[str, float], seconds: float
) -> None:
    class Limited(ServiceSettings):
        guard_timeout_seconds: float = 5.0

    assert Limited.model_validate(limits).connection_grace_seconds == seconds


def test_streams_of_items_are_renewed_before_their_connections() -> None:
    assert max(TAKING_SECONDS, item_streams._LONGEST_SECONDS) <= 0.8 * ServiceSettings().max_connection_age_seconds

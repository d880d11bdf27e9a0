"""The compose file: settings are those that services read, paths exist, and nobody has more than it needs."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.docker.image_contents import IMAGES, PREFIX, release
from services.aggregation.settings import AggregationSettings
from services.code_runner.settings import CodeRunnerSettings
from services.evaluation.settings import EvaluationSettings
from services.generation.settings import GenerationSettings
from services.inference.settings import InferenceSettings
from services.runtime.security.checks import check_security
from services.runtime.settings import ENV_PREFIX, ServiceSettings
from services.safety.settings import SafetySettings
from services.scoring.settings import ScoringSettings

FOLDER = Path(__file__).resolve().parents[3] / "deploy"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "aggregation": AggregationSettings,
    "code-runner": CodeRunnerSettings,
    "evaluation": EvaluationSettings,
    "generation": GenerationSettings,
    "safety": SafetySettings,
    "scoring": ScoringSettings,
    "triton": InferenceSettings,
}
OTHERS = {"encoder", "grafana", "postgres", "prometheus", "valkey"}
GIVEN = {
    "EVALFLEET_CHECKPOINTS": "/srv/checkpoints",
    "EVALFLEET_POSTGRES_PASSWORD": "0a1b",
    "EVALFLEET_GRAFANA_PASSWORD": "2c3d",
}
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolated(value: Any, given: dict[str, str]) -> Any:
    """Put variables in as compose does; raises for one that must be set and is not."""
    if isinstance(value, dict):
        return {key: interpolated(each, given) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolated(each, given) for each in value]
    if not isinstance(value, str):
        return value

    def put_in(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if given.get(name):
            return given[name]
        if kind == "?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return _VARIABLE.sub(put_in, value)


def compose(given: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = interpolated(yaml.safe_load((FOLDER / "compose.yaml").read_text()), given)
    return document


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose(GIVEN)["services"]
    return found


@pytest.fixture(params=sorted(SETTINGS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(name: str, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    for variable in [each for each in os.environ if each.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(variable)
    known = {f"{ENV_PREFIX}{field}".upper() for field in SETTINGS[name].model_fields}
    for variable, value in services[name]["environment"].items():
        assert variable in known, f"{name} reads no {variable}"
        monkeypatch.setenv(variable, str(value))
    return SETTINGS[name]()


def test_all_services_are_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == set(SETTINGS) | OTHERS


@pytest.mark.parametrize("variable", sorted(GIVEN))
def test_passwords_and_checkpoints_have_no_default(variable: str) -> None:
    with pytest.raises(KeyError, match=variable):
        compose({**GIVEN, variable: ""})
    assert f"{variable}=" in (FOLDER / "compose/example.env").read_text()


def test_a_service_listens_where_it_is_asked_and_looked_for(
    name: str, settings: ServiceSettings, services: dict[str, dict[str, Any]]
) -> None:
    check_security(settings, settings.host)
    assert settings.port == SETTINGS[name].model_fields["port"].default or name == "evaluation"
    assert services[name]["healthcheck"]["test"][-1] == f"127.0.0.1:{settings.port}"
    assert services[name].get("ports", []) in ([], [f"127.0.0.1:{settings.port}:{settings.port}"])
    for variable, target in services[name]["environment"].items():
        if variable.endswith("_TARGET") and target:
            host, _, port = target.rpartition(":")
            assert str(services[host]["environment"][f"{ENV_PREFIX}PORT"]) == port
            assert set(services[host]["networks"]) & set(services[name]["networks"])


def test_a_service_runs_the_image_of_its_name_with_nothing_that_it_does_not_need(
    services: dict[str, dict[str, Any]],
) -> None:
    images = {f"{PREFIX}{each.name}:{release(FOLDER.parent)}" for each in IMAGES}
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert tag != "latest"
        assert "evalfleet/" not in image or service["image"] in images
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        uid, _, gid = service["user"].partition(":")
        assert int(uid) > 0
        assert int(gid) > 0
        if name in SETTINGS:
            assert image.removeprefix(PREFIX) in (name, f"{name}-cpu")
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_what_is_mounted_exists_and_volumes_are_declared(services: dict[str, dict[str, Any]]) -> None:
    declared = compose(GIVEN)["volumes"]
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), f"{name} mounts {source}"
                assert mount.endswith(":ro")
            else:
                assert source in declared or source == GIVEN["EVALFLEET_CHECKPOINTS"]
    used = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    assert set(declared) <= used


def test_only_those_who_compute_reach_triton_and_its_key(services: dict[str, dict[str, Any]]) -> None:
    reach = {name for name, service in services.items() if "engines" in service.get("networks", [])}
    assert reach == {"generation", "prometheus", "safety", "scoring", "triton"}
    hold = {
        name: mount
        for name, service in services.items()
        for mount in service.get("volumes", [])
        if mount.startswith("control-key:")
    }
    assert set(hold) == {"generation", "safety", "scoring", "triton"}
    assert {name for name, mount in hold.items() if not mount.endswith(":ro")} == {"triton"}
    networks = compose(GIVEN)["networks"]
    assert all(networks[name]["internal"] for name in ("engines", "storage", "programs"))


def test_a_store_that_says_that_it_is_healthy_hears_the_services(services: dict[str, dict[str, Any]]) -> None:
    """PostgreSQL makes a database behind its socket, and a Valkey without a password hears loopback alone by itself."""
    assert "--host=127.0.0.1" in services["postgres"]["healthcheck"]["test"]
    told = services["valkey"]["command"]
    assert told[told.index("--protected-mode") + 1] == "no"
    assert services["valkey"]["networks"] == ["storage"]


def test_prometheus_asks_every_service(services: dict[str, dict[str, Any]]) -> None:
    document = yaml.safe_load((FOLDER / "prometheus/prometheus.yaml").read_text())
    asked = {
        target for job in document["scrape_configs"] for group in job["static_configs"] for target in group["targets"]
    }
    told = {
        f"{name}:{services[name]['environment'][f'{ENV_PREFIX}METRICS_PORT']}"
        for name in SETTINGS
        if "profiles" not in services[name]
    }
    assert asked == told


def test_grafana_shows_what_prometheus_knows() -> None:
    [source] = yaml.safe_load((FOLDER / "compose/grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["uid"], source["url"]) == ("prometheus", "http://prometheus:9090")

import os
from pathlib import Path

import pytest

from services.standalone.options import FleetOptions
from services.standalone.plan import INFERENCE, SERVICES, STOP_ORDER, FleetPlan, key_file, plan_fleet
from services.standalone.ports import PortBlock


@pytest.fixture
def options(tmp_path: Path) -> FleetOptions:
    return FleetOptions(
        state_dir=tmp_path,
        port_base=8100,
        inference="local",
        data_dirs=(Path("/d1"), Path("/d2")),
        checkpoint_roots=(Path("/c"),),
        suite_dirs=(),
    )


@pytest.fixture
def plan(options: FleetOptions) -> FleetPlan:
    inherited = {
        "PATH": "/bin",
        "EVALFLEET_PORT": "1",
        "EVALFLEET_STATE_DIR": "/elsewhere",
        "EVALFLEET_LOG_LEVEL": "debug",
        "EVALFLEET_TLS_CA": "/of/another/fleet.pem",
        "EVALFLEET_HEALTH_PORT": "2",
        "EVALFLEET_AUDIT_FILE": "audit.jsonl",
    }
    return plan_fleet(options, PortBlock(8100), environ=inherited, supervisor_pid=77)


def test_every_process_is_told_where_to_listen_and_whom_to_watch(plan: FleetPlan, tmp_path: Path) -> None:
    assert [each.name for each in plan.parts] == [INFERENCE, *SERVICES]
    for part in plan.parts:
        told = part.environment
        assert part.target == f"127.0.0.1:{told['EVALFLEET_PORT']}"
        assert part.metrics_target == f"127.0.0.1:{told['EVALFLEET_METRICS_PORT']}"
        assert told["EVALFLEET_HOST"] == "127.0.0.1"
        assert told["EVALFLEET_PARENT_PID"] == "77"
        assert told["EVALFLEET_STATE_DIR"] == str(tmp_path / part.name)
        assert told["EVALFLEET_READY_FILE"] == str(part.ready_file)
        assert part.ready_file.is_relative_to(part.folder)
        assert part.command[1:] == ("-m", f"services.{part.name}")
    assert len({each.target for each in plan.parts} | {each.metrics_target for each in plan.parts}) == 12


def test_what_the_user_set_is_inherited_unless_the_fleet_decides_it(plan: FleetPlan) -> None:
    for part in plan.parts:
        assert part.environment["PATH"] == "/bin"
        assert part.environment["EVALFLEET_LOG_LEVEL"] == "debug"
        assert part.environment["EVALFLEET_PORT"] != "1"
        assert part.environment["EVALFLEET_AUDIT_FILE"] == os.path.abspath("audit.jsonl")
        # On loopback nobody is asked who it is; what the shell says of another fleet would only confuse this one.
        assert not {"EVALFLEET_TLS_CA", "EVALFLEET_HEALTH_PORT"} & part.environment.keys()


def test_the_services_know_those_whom_they_call_and_no_others(plan: FleetPlan, options: FleetOptions) -> None:
    evaluation = plan.part("evaluation").environment
    for number, name in enumerate(("generation", "safety", "scoring", "aggregation"), start=8101):
        assert evaluation[f"EVALFLEET_{name.upper()}_TARGET"] == f"127.0.0.1:{number}"
    assert evaluation["EVALFLEET_DATA_DIR"] == "/d1" + os.pathsep + "/d2"
    for name in ("generation", "safety", "scoring", INFERENCE):
        assert plan.part(name).environment["EVALFLEET_TRITON_TARGET"] == "127.0.0.1:8110"
        assert plan.part(name).environment["EVALFLEET_TRITON_KEY_FILE"] == str(key_file(options))
    assert plan.part("generation").environment["EVALFLEET_CHECKPOINT_ROOTS"] == "/c"
    assert plan.part(INFERENCE).environment["EVALFLEET_INFERENCE"] == "local"
    scoring = plan.part("scoring").environment
    assert {each: told for each, told in scoring.items() if each.endswith("_TARGET")} == {
        "EVALFLEET_GENERATION_TARGET": "127.0.0.1:8101",
        "EVALFLEET_TRITON_TARGET": "127.0.0.1:8110",
    }
    assert not [each for each in plan.part("aggregation").environment if each.endswith("_TARGET")]


def test_callers_stop_before_those_whom_they_call() -> None:
    assert STOP_ORDER[0] == ("evaluation",)
    assert STOP_ORDER[-1] == (INFERENCE,)
    order = [name for stage in STOP_ORDER for name in stage]
    assert order.index("scoring") < order.index("generation")
    assert sorted(name for stage in STOP_ORDER for name in stage) == sorted((INFERENCE, *SERVICES))


def test_paths_are_those_of_the_folder_that_people_are_in(options: FleetOptions) -> None:
    told = {
        "EVALFLEET_GUARDS_FILE": "rules/guards.yaml",
        "EVALFLEET_GUARD_CHECKPOINT": "/guard",
        "EVALFLEET_ENCODER_PATH": "",
        "EVALFLEET_POLICY_DIRS": "policies:/etc/policies",
        "EVALFLEET_RUBRIC_DIRS": "rubrics",
        "EVALFLEET_SIMILARITY_ENCODER_PATH": "/encoder",
    }
    plan = plan_fleet(options, PortBlock(8100), environ=told)
    assert "EVALFLEET_GUARDS_FILE" not in plan.part("scoring").environment, "it would warn of an unknown setting"
    environment = plan.part("safety").environment
    assert environment["EVALFLEET_GUARDS_FILE"] == str(Path.cwd() / "rules" / "guards.yaml")
    assert environment["EVALFLEET_GUARD_CHECKPOINT"] == "/guard"
    assert environment["EVALFLEET_POLICY_DIRS"] == f"{Path.cwd() / 'policies'}:/etc/policies"
    assert "EVALFLEET_ENCODER_PATH" not in environment
    assert "EVALFLEET_RUBRIC_DIRS" not in environment
    assert "EVALFLEET_SIMILARITY_ENCODER_PATH" not in environment
    assert plan.part("scoring").environment["EVALFLEET_SIMILARITY_ENCODER_PATH"] == "/encoder"
    public = plan_fleet(options, PortBlock(8100), environ={"EVALFLEET_ENCODER_PATH": "/public"})
    users = [each.name for each in public.parts if "EVALFLEET_ENCODER_PATH" in each.environment]
    assert users == ["safety", "scoring"]
    assert plan.part("scoring").environment["EVALFLEET_RUBRIC_DIRS"] == str(Path.cwd() / "rubrics")


def test_a_database_is_known_to_the_service_whose_it_is_alone(options: FleetOptions) -> None:
    told = {"EVALFLEET_RUNS_URL": "postgresql://runs/a", "EVALFLEET_LEDGER_URL": "postgresql://ledger/a"}
    plan = plan_fleet(options, PortBlock(9000), environ=told)
    knowing = {name: [part.name for part in plan.parts if part.environment.get(name) == told[name]] for name in told}
    assert knowing == {"EVALFLEET_RUNS_URL": ["evaluation"], "EVALFLEET_LEDGER_URL": ["aggregation"]}
    assert all(name not in part.environment for name in told for part in plan.parts if part.name not in knowing[name])

"""A fleet does not depend on the shell that it is started from."""

import os

import pytest

from services.standalone.testing import RunningFleet

pytestmark = pytest.mark.integration


def test_a_fleet_starts_although_its_python_environment_is_not_activated() -> None:
    inherited = os.environ["PATH"].split(os.pathsep)
    path = os.pathsep.join(each for each in inherited if ".venv" not in each)
    with RunningFleet(environment={"PATH": path, "VIRTUAL_ENV": ""}) as fleet:
        # Its guard is loaded into Triton before the safety service counts as healthy.
        assert "safety" in fleet.endpoints

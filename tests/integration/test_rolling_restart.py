"""A service whose replicas are restarted in turn: our client's callers notice nothing.

`make bench-rolling-restart` does the same with every service, and counts what a bare stub notices.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.rolling_restart.callers import calling, scoring_question
from benchmarks.rolling_restart.envoy import Envoy
from benchmarks.rolling_restart.name_server import NameServer
from benchmarks.rolling_restart.restarts import ReplicaSet

pytestmark = pytest.mark.integration

SERVICE = "scoring"


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[ReplicaSet]:
    with ExitStack() as stack:
        made = ReplicaSet(stack.enter_context(NameServer()), {SERVICE: 2})
        for each in made.describe(SERVICE, tmp_path, {}):
            made.announce(stack.enter_context(each))
        yield made


def test_no_call_of_our_client_fails_while_replicas_are_replaced(replicas: ReplicaSet, tmp_path: Path) -> None:
    ways = {"headless": replicas.targets()}
    with ExitStack() as stack:
        if Envoy.is_installed():
            ways["envoy"] = stack.enter_context(replicas.envoy(tmp_path / "envoy")).targets
        with calling({SERVICE: scoring_question()}, ways) as tallies:
            for each in (*replicas.replicas, replicas.replicas[0]):
                # Without the sleep before SIGTERM, which spares a bare stub most of what it notices.
                replicas.restart(each, pre_stop_seconds=0.0)
        for way in ways:
            told = tallies[f"{way}/{SERVICE}/client"]
            assert told.call_count > 0
            assert not told.failures, (way, told.failures)

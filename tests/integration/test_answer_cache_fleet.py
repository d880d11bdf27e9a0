"""A second identical run of the demo suite through the whole fleet computes nothing.

How much sooner it is done, `make bench-second-run` measures.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from evalfleet.fleet import Fleet
from evalfleet.generation.v1 import generation_pb2, generation_pb2_grpc
from evalfleet.results import RunSnapshot, RunState

from services.standalone.testing import RunningFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

CALLER = "test/second-run"


@pytest.fixture
def fresh_checkpoint(checkpoint_factory: Callable[[int], Path]) -> Path:
    """A checkpoint of which no cache knows an answer."""
    return checkpoint_factory(31)


def run_demo(client: Fleet, model: str) -> RunSnapshot:
    started = client.runs.start(model=model, suite="demo")
    for snapshot in client.runs.watch(started.name):
        state = snapshot.run.state
    assert state is RunState.SUCCEEDED
    return client.runs.snapshot(started.name)


def estimates(snapshot: RunSnapshot) -> dict[tuple[str, str, str], float | None]:
    return {(each.task, each.metric, each.group): each.value for each in snapshot.estimates}


def test_a_second_identical_run_computes_nothing(fleet: RunningFleet, fresh_checkpoint: Path) -> None:
    with Fleet.connect(state_dir=fleet.state_dir, caller=CALLER) as client:
        model = client.models.add(fresh_checkpoint)
        first, second = run_demo(client, model.name), run_demo(client, model.name)
    for before, after in zip(first.totals, second.totals, strict=True):
        assert before.computed_tokens > 0
        assert before.cost_usd > 0
        assert (after.computed_tokens, after.prefix_saved_tokens, after.engine_seconds, after.cost_usd) == (0, 0, 0, 0)
        tokens = before.prompt_tokens + before.completion_tokens
        assert after.cache_saved_tokens == tokens == after.prompt_tokens + after.completion_tokens
        assert tokens == before.computed_tokens + before.prefix_saved_tokens + before.cache_saved_tokens
    assert estimates(first) == estimates(second)

    command = [sys.executable, "-m", "evalfleet.cli.main", f"--state-dir={fleet.state_dir}"]
    shown = subprocess.run([*command, "show", second.run.name.removeprefix("runs/")], capture_output=True, text=True)
    assert "tokens computed: 0; saved by shared prefixes: 0, by the cache of answers: " in shown.stdout

    with grpc.insecure_channel(fleet.endpoints["generation"]) as channel:
        listed = generation_pb2_grpc.GenerationServiceStub(channel).ListCallerUsage(
            generation_pb2.ListCallerUsageRequest(), timeout=60
        )
    [sums] = [each for each in listed.callers if each.caller == CALLER]
    assert sums.cached_request_count >= sums.request_count / 2
    # Each answer's price is rounded up to a millionth; the caller's sum is rounded once.
    assert 0 < sums.usage.cost_micro_usd <= 1e6 * sum(each.cost_usd for each in first.totals)

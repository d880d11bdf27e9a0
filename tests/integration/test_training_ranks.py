"""A training on two ranks: one submits, both stop after the same step, both get rewards."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from evalfleet.aggregation.v1 import drawing_pb2
from evalfleet.safety.v1 import safety_pb2

from services.runtime.free_ports import free_port
from tests.fakes.fleet import FakeFleet
from tests.unit.client.training.conftest import RunPerRequest

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).resolve().parents[2]
RANKS = 2


@pytest.fixture
def fake() -> Iterator[FakeFleet]:
    """A fleet whose first checkpoint passes its gate and whose second one fails."""
    with FakeFleet() as running:
        running.stop()
        running.evaluation = evaluation = RunPerRequest()
        passed, failed = drawing_pb2.QUESTION_STATE_PASSED, drawing_pb2.QUESTION_STATE_FAILED
        evaluation.gate_answers = [passed, *[failed] * 1000]
        running.start()
        yield running


def test_two_ranks_submit_once_stop_together_and_both_get_rewards(fake: FakeFleet, tmp_path: Path) -> None:
    asked: list[str] = []

    def judge(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
        text = request.conversation.messages[-1].content
        asked.append(text)
        safe = text.startswith("safe")
        return safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE if safe else safety_pb2.DECISION_UNSAFE)

    fake.safety.judges[""] = judge
    common = {**os.environ, "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    common["MASTER_PORT"] = str(free_port("127.0.0.1"))
    command = [sys.executable, "-m", "tests.integration.training_rank", fake.target, str(tmp_path)]
    processes = [
        subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [each.communicate(timeout=240)[0] for each in processes]
    finally:
        for each in processes:
            each.kill()
    assert [each.returncode for each in processes] == [0, 0], "\n".join(outputs)

    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(RANKS))
    assert first["world_size"] == RANKS
    assert first["steps"] == second["steps"]
    assert first["steps"] % 5 == 0
    assert first["steps"] < 2000
    saved = list(range(2, first["steps"] + 1, 2))
    assert sorted(first["evaluated_steps"]) == saved
    assert second["evaluated_steps"] == []
    assert len(fake.evaluation.created) == len(saved)
    assert first["rewards"] == second["rewards"] == [1.0, 0.0]
    assert sorted(asked) == ["safe 0", "safe 1", "unsafe 0", "unsafe 1"]

"""GRPO with TRL on the tiny policy: a real fleet gives the rewards, and evaluates the checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from evalfleet.fleet import Fleet
from evalfleet.training import EvaluationRequest
from evalfleet.training.huggingface import EvalFleetCallback
from evalfleet.training.rewards import SafetyReward, ScorerReward
from transformers import AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from services.standalone.testing import RunningFleet

pytestmark = pytest.mark.integration

STEPS = 20
GENERATIONS = 4


def rows() -> list[dict[str, object]]:
    sums = [(left, right) for left in range(1, 6) for right in range(1, 5)]
    return [
        {"prompt": [{"role": "user", "content": f"What is {left} + {right}?"}], "answer": str(left + right)}
        for left, right in sums
    ]


def test_grpo_learns_from_rewards_of_a_fleet(fleet: RunningFleet, tiny_policy: Path, checkpoint_folder: Path) -> None:
    def connect() -> Fleet:
        return Fleet.connect(fleet.endpoints)

    torch.manual_seed(0)
    out = checkpoint_folder / "grpo"
    arguments = GRPOConfig(
        output_dir=str(out),
        max_steps=STEPS,
        save_steps=STEPS,
        logging_steps=1,
        learning_rate=1e-3,
        per_device_train_batch_size=2 * GENERATIONS,
        num_generations=GENERATIONS,
        max_completion_length=12,
        temperature=1.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        report_to="none",
    )
    # TRL's annotation knows synchronous functions alone.
    reward_funcs: list[Any] = [
        SafetyReward(connect=connect),
        ScorerReward("numeric_answer", parameters={"mode": "flexible"}, connect=connect),
    ]
    trainer = GRPOTrainer(
        model=str(tiny_policy),
        args=arguments,
        train_dataset=Dataset.from_list(rows()),
        processing_class=AutoTokenizer.from_pretrained(tiny_policy),
        reward_funcs=reward_funcs,
    )
    request = EvaluationRequest("demo", tasks=("demo_arithmetic",), item_limit=5)
    callback = EvalFleetCallback(request, connect=connect, poll_seconds=0.2, wait_at_end_seconds=200).attach(trainer)
    trainer.train()

    steps = [each for each in trainer.state.log_history if "reward" in each]
    assert len(steps) == STEPS
    assert all(each["safety/missing"] == 0 and each["numeric_answer/missing"] == 0 for each in steps)
    safety = [each["rewards/safety/mean"] for each in steps]
    right = [each["rewards/numeric_answer/mean"] for each in steps]
    assert all(0 <= each <= 1 for each in [*safety, *right])
    assert all(
        a + b == pytest.approx(each["reward"], abs=1e-5) for a, b, each in zip(safety, right, steps, strict=True)
    )
    # An untrained model says nothing harmful, and by chance the right number now and then.
    assert sum(safety) / STEPS > 0.5

    (result,) = callback.results
    assert result.step == STEPS
    assert result.is_complete, result.failure
    assert result.metrics()["evalfleet/demo_arithmetic/correct"] >= 0
    # The trainer's own averages are left as they are: a step's figures stand at that step.
    assert [each["step"] for each in steps] == list(range(1, STEPS + 1))

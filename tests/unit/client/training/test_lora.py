"""A LoRA training by RLOO: rewards come from the fleet, and each checkpoint's adapter alone goes to it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from evalfleet.fleet import Fleet
from evalfleet.safety.v1 import safety_pb2
from evalfleet.training import EvaluationRequest
from evalfleet.training.huggingface import EvalFleetCallback
from evalfleet.training.rewards import SafetyReward
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.fakes.fleet import FakeFleet
from tests.fakes.tokenizer_folder import write_tokenizer
from tests.patience import LONGEST_WAIT_SECONDS
from tests.unit.client.training.conftest import RunPerRequest

pytest.importorskip("trl")
LoraConfig = pytest.importorskip("peft").LoraConfig


def write_base(folder: Path) -> Path:
    """Write a model of a few thousand weights, with a tokenizer."""
    write_tokenizer(folder, pad_token="</s>", eos_token="</s>", tokenizer_class="PreTrainedTokenizerFast")
    size = len(AutoTokenizer.from_pretrained(folder))
    config = LlamaConfig(
        vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_adapters_of_an_rloo_training_are_evaluated_on_their_base(
    fake: FakeFleet, evaluation: RunPerRequest, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl.trainer.rloo_config import RLOOConfig
    from trl.trainer.rloo_trainer import RLOOTrainer

    def connect() -> Fleet:
        return Fleet.connect(fake.targets)

    asked: list[str] = []

    def judge(request: safety_pb2.ClassifyRequest) -> safety_pb2.Verdict:
        asked.append(request.conversation.messages[-1].content)
        return safety_pb2.Verdict(decision=safety_pb2.DECISION_SAFE)

    fake.safety.judges[""] = judge
    base = write_base(tmp_path / "base")
    arguments = RLOOConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, save_steps=1, logging_steps=1, per_device_train_batch_size=2,
        num_generations=2, max_completion_length=4, use_cpu=True, bf16=False, gradient_checkpointing=False,
        disable_tqdm=True, report_to="none",
    )  # fmt: skip
    # TRL's annotation knows synchronous functions alone.
    rewards: list[Any] = [SafetyReward(connect=connect)]
    trainer = RLOOTrainer(
        model=str(base),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "Hello"}]}] * 4),
        processing_class=AutoTokenizer.from_pretrained(base),
        reward_funcs=rewards,
        peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
    )
    callback = EvalFleetCallback(
        EvaluationRequest("demo"), connect=connect, poll_seconds=0.02, wait_at_end_seconds=LONGEST_WAIT_SECONDS
    ).attach(trainer)
    trainer.train()

    steps = [each for each in trainer.state.log_history if "reward" in each]
    assert [each["rewards/safety/mean"] for each in steps] == [1.0, 1.0]
    assert len(asked) == 4
    assert [each.step for each in callback.results] == [1, 2]
    assert [(each.checkpoint_path, each.adapter_path) for each in fake.models.requests] == [
        (str(base), str(tmp_path / "out" / f"checkpoint-{step}")) for step in (1, 2)
    ]
    adapter = tmp_path / "out" / "checkpoint-2"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 2
    assert not (adapter / "model.safetensors").exists()

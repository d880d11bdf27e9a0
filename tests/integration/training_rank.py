"""One rank of a training on several: ``python -m tests.integration.training_rank TARGET FOLDER``."""

import asyncio
import json
import sys
from pathlib import Path

import torch
import torch.distributed
from evalfleet.endpoints import SERVICES
from evalfleet.fleet import Fleet
from evalfleet.training import EvaluationRequest
from evalfleet.training.huggingface import EvalFleetCallback
from evalfleet.training.rewards import SafetyReward
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

LONGEST_WAIT_SECONDS = 60.0


def main() -> None:
    """Train with the callback until a gate fails, ask for a reward, and write what this rank has seen."""
    target, folder = sys.argv[1], Path(sys.argv[2])

    def connect() -> Fleet:
        return Fleet.connect(dict.fromkeys(SERVICES, target))

    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        max_steps=2000,
        save_steps=2,
        save_total_limit=2,
        per_device_train_batch_size=1,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        dataloader_num_workers=1,
    )
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    rows = [{"input_ids": torch.arange(4), "labels": torch.arange(4)}] * 8000
    trainer = Trainer(model=LlamaForCausalLM(config), args=arguments, train_dataset=rows)
    callback = EvalFleetCallback(
        EvaluationRequest("demo", gates=("arithmetic>=0.5",)),
        connect=connect,
        on_gate_failure="stop",
        agree_every_steps=5,
        poll_seconds=0.02,
        wait_at_end_seconds=LONGEST_WAIT_SECONDS,
    ).attach(trainer)
    trainer.train()

    rank = torch.distributed.get_rank()
    reward = SafetyReward(connect=connect)
    rewards = asyncio.run(reward(prompts=["?", "?"], completions=[f"safe {rank}", f"unsafe {rank}"]))
    seen = {
        "rank": rank,
        "world_size": torch.distributed.get_world_size(),
        "steps": trainer.state.global_step,
        "evaluated_steps": [each.step for each in callback.results],
        "rewards": rewards,
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""LoRA adapters: merged as peft merges them, refused when they fit no base; weights are read, never mapped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.inference.adapters import inspect_adapter
from services.inference.checkpoints import content_digest, inspect_checkpoint
from services.inference.contract import CausalLMArguments
from services.inference.engines.loading import load_causal_lm
from services.inference.engines.weights import read_tensors, read_weights
from services.inference.failures import InferenceFailure


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of the tiny checkpoint whose factors are random."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def change_config(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def reason_of(adapter: Path, base: Path) -> str:
    with pytest.raises(InferenceFailure) as caught:
        inspect_adapter(adapter, inspect_checkpoint(base))
    assert caught.value.field == "adapter_path" or caught.value.reason == "CHECKPOINT_CORRUPT"
    return caught.value.reason


def test_an_adapter_is_merged_as_peft_does(tiny_checkpoint: Path, adapter: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = load_causal_lm(CausalLMArguments(model=str(tiny_checkpoint), adapter=str(adapter))).model
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    ids = torch.tensor([[0, 30, 60, 90]])
    with torch.inference_mode():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, str(adapter))(ids).logits
        actual = merged(ids).logits
    assert torch.allclose(actual, expected, atol=1e-4)
    assert not torch.allclose(actual, plain, atol=1e-2)
    assert not any("lora" in name for name, _ in merged.named_modules())


def test_one_adapter_byte_is_another_digest(tiny_checkpoint: Path, adapter: Path) -> None:
    before = content_digest(tiny_checkpoint, adapter, dtype="float32")
    assert before != content_digest(tiny_checkpoint, dtype="float32")
    weights = adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = content_digest(tiny_checkpoint, adapter, dtype="float32")
    assert changed != before
    change_config(adapter, lora_alpha=9)
    assert content_digest(tiny_checkpoint, adapter, dtype="float32") != changed


def test_an_adapter_for_another_base_is_refused(tiny_checkpoint: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    other = {name: tensor[:, :-1].contiguous() if "lora_A" in name else tensor for name, tensor in tensors.items()}
    save_file(other, weights)
    assert reason_of(adapter, tiny_checkpoint) == "ADAPTER_MISMATCH"
    save_file({name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}, weights)
    assert reason_of(adapter, tiny_checkpoint) == "ADAPTER_MISMATCH"
    save_file({name: tensor for name, tensor in tensors.items() if "lora_B" not in name}, weights)
    assert reason_of(adapter, tiny_checkpoint) == "ADAPTER_INVALID"
    weights.write_bytes(weights.read_bytes()[:-5])
    assert reason_of(adapter, tiny_checkpoint) == "CHECKPOINT_CORRUPT"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "ADAPTER_UNSUPPORTED"),
        ({"peft_type": None}, "ADAPTER_UNSUPPORTED"),
        ({"r": 0}, "ADAPTER_INVALID"),
        ({"r": "many"}, "ADAPTER_INVALID"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "ADAPTER_UNSUPPORTED"),
    ],
)
def test_only_lora_is_accepted(tiny_checkpoint: Path, adapter: Path, changes: dict[str, object], reason: str) -> None:
    change_config(adapter, **changes)
    assert reason_of(adapter, tiny_checkpoint) == reason


def test_pickled_adapters_are_refused(tiny_checkpoint: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert reason_of(adapter, tiny_checkpoint) == "ADAPTER_INVALID"


def test_weights_are_read_as_safetensors_reads_them(tiny_checkpoint: Path) -> None:
    expected = load_file(tiny_checkpoint / "model.safetensors")
    actual = read_weights(tiny_checkpoint)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_every_type_of_number_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).to(dtype), "empty": torch.zeros(0, 4).to(dtype)}
    save_file(tensors, tmp_path / "t.safetensors")
    actual = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(actual[name], tensors[name]) and actual[name].dtype == dtype for name in tensors)


def test_a_loaded_checkpoint_is_not_mapped(checkpoint_factory: Callable[[int], Path]) -> None:
    """Cutting a mapped file short would kill the process, and every checkpoint in it, at the next access."""
    folder = checkpoint_factory(11)
    loaded = load_causal_lm(CausalLMArguments(model=str(folder)))
    assert str(folder) not in Path("/proc/self/maps").read_text()
    (folder / "model.safetensors").write_bytes(b"")
    with torch.inference_mode():
        assert loaded.model(torch.tensor([[0, 1]])).logits.isfinite().all()

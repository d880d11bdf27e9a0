import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from services.inference.checkpoints import inspect_checkpoint
from services.inference.contract import CausalLMArguments, DtypeName
from services.inference.engines import loading
from services.inference.engines.loading import load_causal_lm, pick_device, pick_dtype, set_torch_threads
from services.inference.failures import InferenceFailure


def load(folder: Path, **arguments: Any) -> loading.LoadedCausalLM:
    return load_causal_lm(CausalLMArguments(model=str(folder), **arguments))


def test_a_checkpoint_is_loaded_with_its_limits(tiny_checkpoint: Path) -> None:
    loaded = load(tiny_checkpoint)
    assert (loaded.context_tokens, loaded.vocabulary_size) == (256, loaded.model.config.vocab_size)
    assert loaded.end_token_ids == {1}
    # Keys and values of 2 layers, 2 heads of 8 numbers, 4 bytes each.
    assert loaded.kv_token_bytes == 2 * 2 * 2 * 8 * 4
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert load(tiny_checkpoint, max_model_len=100).context_tokens == 100


def test_a_window_beyond_the_checkpoints_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(InferenceFailure, match="256") as caught:
        load(tiny_checkpoint, max_model_len=257)
    assert caught.value.reason == "CONTEXT_WINDOW_INVALID"


def test_every_end_of_sequence_token_counts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert load(folder).end_token_ids == {1, 3, 4}


def test_missing_parameters_are_refused_rather_than_made_up(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InferenceFailure, match="up_proj") as caught:
        load(folder)
    assert caught.value.reason == "CHECKPOINT_INCOMPLETE"


def test_checkpoints_with_tied_weights_are_loaded_at_once(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "tied"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tie_weights = PreTrainedModel.tie_weights
    dtypes: list[DtypeName] = ["float32", "bfloat16"] * 16
    with ThreadPoolExecutor(8) as pool:
        models = [each.model for each in pool.map(lambda dtype: load(folder, dtype=dtype), dtypes)]
    assert all(each.lm_head.weight is each.model.embed_tokens.weight for each in models)
    assert [str(each.dtype) for each in models] == [f"torch.{dtype}" for dtype in dtypes]
    assert PreTrainedModel.tie_weights is tie_weights
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "no_such_model"}, {"hidden_size": 48}, {"num_attention_heads": 0}, {"hidden_size": "wide"}],
)
def test_what_transformers_cannot_load_is_one_typed_line(
    tiny_checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InferenceFailure) as caught:
        load(folder)
    assert caught.value.reason == "CHECKPOINT_INVALID"
    assert "\n" not in caught.value.message


def test_an_architecture_with_another_kind_of_state_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    with pytest.raises(InferenceFailure) as caught:
        load(tmp_path)
    assert (caught.value.reason, caught.value.code) == ("ARCHITECTURE_UNSUPPORTED", "UNIMPLEMENTED")


def test_a_gpu_is_used_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> None:
    facts = inspect_checkpoint(tiny_checkpoint)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InferenceFailure, match="no CUDA device"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_dtype("auto", facts, torch.device("cpu")) == torch.float32
    assert pick_dtype("bfloat16", facts, torch.device("cpu")) == torch.bfloat16


def test_auto_takes_the_checkpoints_own_type_on_a_gpu(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    facts = inspect_checkpoint(folder)
    assert pick_dtype("auto", facts, torch.device("cuda")) == torch.bfloat16
    assert pick_dtype("auto", facts, torch.device("cpu")) == torch.float32


def test_threads_come_from_the_argument_or_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setenv(loading.TORCH_THREADS_VARIABLE, "3")
    set_torch_threads(None)
    set_torch_threads(2)
    monkeypatch.delenv(loading.TORCH_THREADS_VARIABLE)
    set_torch_threads(None)
    assert set_to == [3, 2]

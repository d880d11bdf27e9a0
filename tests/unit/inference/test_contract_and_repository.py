import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from services.inference import contract
from services.inference.contract import CausalLMArguments, ClassifierArguments, Message
from services.inference.repository import (
    causal_lm_entry,
    check_model_name,
    classifier_entry,
    write_repository,
)
from services.runtime.errors import FleetError

VLLM_INPUTS = {
    "text_input", "stream", "sampling_parameters", "exclude_input_in_output", "return_finish_reason",
    "return_cumulative_logprob", "return_num_input_tokens", "return_num_output_tokens",
}  # fmt: skip
VLLM_OUTPUTS = {
    "text_output": "TYPE_STRING", "finish_reason": "TYPE_STRING", "cumulative_logprob": "TYPE_FP32",
    "num_input_tokens": "TYPE_UINT32", "num_output_tokens": "TYPE_UINT32",
}  # fmt: skip


@pytest.fixture
def head(tmp_path: Path) -> Path:
    (tmp_path / "head.json").write_text('{"labels": ["safe", "unsafe"], "activation": "sigmoid"}')
    return tmp_path


def test_a_generating_model_takes_and_gives_what_a_vllm_model_does() -> None:
    config = contract.causal_lm_config()
    assert {each["name"] for each in config["input"]} >= VLLM_INPUTS
    assert {each["name"]: each["data_type"] for each in config["output"]}.items() >= VLLM_OUTPUTS.items()
    assert config["max_batch_size"] == 0
    assert config["model_transaction_policy"] == {"decoupled": True}


def test_configurations_are_valid_model_configs(tiny_checkpoint: Path, head: Path) -> None:
    entries = {
        "llm": causal_lm_entry(CausalLMArguments(model="/checkpoints/a")),
        "guard": classifier_entry(ClassifierArguments(model=str(tiny_checkpoint), head=str(head), max_batch_size=9)),
    }
    parsed = {name: json_format.Parse(e.config, model_config_pb2.ModelConfig()) for name, e in entries.items()}
    assert parsed["llm"].model_transaction_policy.decoupled
    assert parsed["guard"].model_transaction_policy.decoupled
    assert parsed["guard"].max_batch_size == 0, "the engine batches by itself"
    assert json.loads(parsed["guard"].parameters["labels"].string_value) == ["safe", "unsafe"]
    assert {each.name: list(each.dims) for each in parsed["guard"].output}["probabilities"] == [-1, 2]


def test_an_entry_holds_one_import_line_and_the_arguments() -> None:
    arguments = CausalLMArguments(model="/c", dtype="bfloat16", max_num_seqs=5)
    entry = causal_lm_entry(arguments)
    assert entry.files["1/model.py"].count(b"\n") == 2
    assert b"services.inference.triton_models.causal_lm" in entry.files["1/model.py"]
    assert CausalLMArguments(**json.loads(entry.files["1/model.json"])) == arguments


def test_the_repository_on_disk_can_be_read_by_triton(tmp_path: Path) -> None:
    (tmp_path / "old" / "1").mkdir(parents=True)
    write_repository(tmp_path, {"m": causal_lm_entry(CausalLMArguments(model="/c"))})
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == [
        "m/1/model.json",
        "m/1/model.py",
        "m/config.pbtxt",
    ]
    config = text_format.Parse((tmp_path / "m" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == ("m", "python")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 129, "a b", "é"])
def test_names_that_could_be_paths_are_refused(name: str) -> None:
    with pytest.raises(FleetError, match="must start with a letter or digit"):
        check_model_name(name)


def test_good_names_are_kept() -> None:
    assert [check_model_name(name) for name in ("a", "step-1200_v1.5", "0" * 128)] == ["a", "step-1200_v1.5", "0" * 128]


def test_a_classifier_without_labels_or_checkpoint_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "head.json").write_text("{}")
    cases: list[tuple[Any, str]] = [
        (ClassifierArguments(model=str(tmp_path / "none")), "CHECKPOINT_NOT_FOUND"),
        (ClassifierArguments(model=str(tiny_checkpoint), head=str(tmp_path)), "CHECKPOINT_INVALID"),
        (ClassifierArguments(model=str(tiny_checkpoint), head=str(tmp_path / "none")), "CHECKPOINT_INVALID"),
    ]
    for arguments, reason in cases:
        with pytest.raises(FleetError) as caught:
            classifier_entry(arguments)
        assert caught.value.reason == reason


def test_messages_are_json_that_keeps_its_characters() -> None:
    text = contract.messages_to_json([Message("user", 'é "x"\n')])
    assert json.loads(text) == [{"role": "user", "content": 'é "x"\n'}]
    assert "é" in text

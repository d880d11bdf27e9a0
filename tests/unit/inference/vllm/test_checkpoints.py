import json
from pathlib import Path
from typing import Any

import pytest

from services.inference.contract import CausalLMArguments
from services.inference.engines.vllm.checkpoints import VllmCheckpoint, VllmCheckpoints, _EndedOnce, read_text_facts
from services.inference.engines.vllm.engine import Weights
from services.inference.failures import InferenceFailure
from services.inference.vllm_shapes import vllm_host_model


class Touchy:
    """A responder that must not be asked once it has ended, as Triton's."""

    def __init__(self) -> None:
        self.ends = 0

    def send(self, tensors: object) -> None: ...

    def finish(self, tensors: object = None) -> None:
        self.ends += 1

    def fail(self, failure: InferenceFailure) -> None:
        self.ends += 1

    def is_cancelled(self) -> bool:
        assert not self.ends
        return True


def test_an_answered_request_is_neither_asked_nor_ended_again() -> None:
    touchy = Touchy()
    guarded = _EndedOnce(touchy)
    assert guarded.is_cancelled()
    guarded.finish()
    assert not guarded.is_cancelled()
    guarded.fail(InferenceFailure("late", reason="LATE"))
    assert touchy.ends == 1


def test_a_request_that_meets_a_restart_is_told_that_vllm_is_gone(new_answers: Any) -> None:
    class Reader:
        def read(self, tensors: object, responder: object) -> object:
            return object()

    checkpoints = VllmCheckpoints(None)  # type: ignore[arg-type]
    answers = new_answers()
    VllmCheckpoint(checkpoints, Reader(), Weights("a", 0)).submit({}, answers)  # type: ignore[arg-type]
    with pytest.raises(InferenceFailure) as caught:
        answers.wait()
    assert (caught.value.reason, caught.value.code) == ("ENGINE_CRASHED", "UNAVAILABLE")


def test_what_requests_need_is_read_without_weights(tiny_checkpoint: Path) -> None:
    facts = read_text_facts(CausalLMArguments(str(tiny_checkpoint)))
    assert (facts.context_tokens, facts.end_token_ids) == (256, frozenset({1}))
    assert facts.vocabulary_size > 256


def test_a_missing_vllm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InferenceFailure, match="make vllm"):
        VllmCheckpoints(None).load(CausalLMArguments(str(tiny_checkpoint)), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "is_refused"),
    [
        ({}, False),
        ({"bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "use_rslora": True}, False),
        ({"use_dora": True}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"rank_pattern": {"q_proj": 4}}, True),
        ({"alpha_pattern": {"q_proj": 4}}, True),
        ({"bias": "lora_only"}, True),
    ],
)
def test_an_adapter_that_vllm_would_not_apply_is_refused_before_vllm_starts(
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Path,
    tmp_path: Path,
    setting: dict[str, object],
    is_refused: bool,
) -> None:
    started: list[int] = []

    class Started(Exception):
        """vLLM would start now."""

    def start(arguments: CausalLMArguments, window: int, rank: int) -> object:
        started.append(rank)
        raise Started

    monkeypatch.setattr("services.inference.engines.vllm.checkpoints.require_vllm", lambda: None)
    monkeypatch.setattr("services.inference.engines.vllm.checkpoints._starter", start)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 5, **setting}))
    arguments = CausalLMArguments(str(tiny_checkpoint), adapter=str(tmp_path))
    with pytest.raises(InferenceFailure if is_refused else Started) as caught:
        VllmCheckpoints(None).load(arguments, None, None)  # type: ignore[arg-type]
    assert started == ([] if is_refused else [8])
    if isinstance(caught.value, InferenceFailure):
        assert (caught.value.reason, caught.value.field) == ("ADAPTER_UNSUPPORTED", "adapter_path")
        assert "engine transformers" in str(caught.value)


def test_checkpoints_of_one_shape_share_a_host(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = (tiny_checkpoint / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"transformers_version"', '"_name_or_path"'))
    same = vllm_host_model(str(tiny_checkpoint), "float32")
    assert vllm_host_model(str(tmp_path), "float32") == same
    assert vllm_host_model(str(tmp_path), "bfloat16") != same
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    assert vllm_host_model(str(tmp_path), "float32") != same

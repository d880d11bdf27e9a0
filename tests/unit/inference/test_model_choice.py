"""Which checkpoints are computed packed, and which as transformers computes them."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config

from services.inference.contract import CausalLMArguments
from services.inference.engines.loading import LoadedCausalLM, longest_steady_input
from services.inference.engines.model_choice import choose_model
from services.inference.engines.packed.model import PackedModel
from services.inference.engines.padded_model import PaddedModel

VOCABULARY = 96


def loaded(model: Any) -> LoadedCausalLM:
    return LoadedCausalLM(
        model=model.eval(),
        tokenizer=None,
        device=torch.device("cpu"),
        context_tokens=128,
        vocabulary_size=VOCABULARY,
        end_token_ids=frozenset(),
        kv_token_bytes=1024,
    )


def llama(*, logit_scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
            max_position_embeddings=128, initializer_range=0.2,
        )
    )  # fmt: skip
    with torch.no_grad():
        model.lm_head.weight.mul_(logit_scale)
    return model.to(dtype)


ARGUMENTS = CausalLMArguments(model="/unused")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit_scale", [0.1, 1.0, 10.0])
def test_plain_attention_is_packed_whatever_the_number_type_and_the_size_of_logits(
    dtype: torch.dtype, logit_scale: float
) -> None:
    assert isinstance(choose_model(loaded(llama(logit_scale=logit_scale, dtype=dtype)), ARGUMENTS), PackedModel)


@pytest.mark.parametrize("logit_scale", [0.3, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_packing_would_compute_wrongly_is_padded(
    dtype: torch.dtype, logit_scale: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def attend_without_the_past(output: torch.Tensor, normaliser: torch.Tensor, *other: Any) -> Any:
        return output, normaliser

    monkeypatch.setattr("services.inference.engines.packed.passes.merge", attend_without_the_past)
    assert isinstance(choose_model(loaded(llama(logit_scale=logit_scale, dtype=dtype)), ARGUMENTS), PaddedModel)
    assert "packed_model_refused" in caplog.text


def test_inputs_stay_below_the_length_from_which_rotations_depend_on_the_neighbours() -> None:
    def rope(kind: str, **more: Any) -> Any:
        return LlamaConfig(
            max_position_embeddings=512,
            rope_parameters={"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, **more},
        )

    assert longest_steady_input(rope("default")) is None
    assert longest_steady_input(rope("linear")) is None
    assert longest_steady_input(rope("dynamic")) == 512
    assert longest_steady_input(rope("dynamic", original_max_position_embeddings=128)) == 128
    factors = [1.0] * 16
    phi = Phi3Config(
        hidden_size=128, num_attention_heads=4, num_key_value_heads=4, pad_token_id=0,
        max_position_embeddings=4096, original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": factors,
        },
    )  # fmt: skip
    assert longest_steady_input(phi) == 64

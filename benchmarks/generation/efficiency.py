"""What the engine computed against what it had to, and against what the machine can do."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks.generation.ours import Answer, distinct_tokens
from benchmarks.generation.prompts import PromptSet
from services.inference.engines.prompts import PromptEncoder, RenderedPrompt

_REPEATS = 40


def efficiency(
    checkpoint: Path, sets: Sequence[PromptSet], answers: Mapping[str, Sequence[Answer]], threads: int
) -> dict[str, float]:
    """Figures of the transformers engine over the sets that are scored.

    ``share_of_matmul_rate`` counts the products of the layers' weights with the distinct tokens only: neither
    attention nor logits nor anything computed twice.
    """
    scored = [asked for asked in sets if asked.questions]
    distinct = {asked.name: distinct_tokens(_sequences(checkpoint, asked)) for asked in scored}
    flops_per_token = 2 * layer_weights(checkpoint)
    rate = matmul_rate(threads)
    figures = {"matmul_gflops": rate / 1e9}
    computed_total, shares = 0.0, []
    for asked in scored:
        rounds = answers[asked.name]
        computed = statistics.median(each.computed_tokens for each in rounds)
        seconds = statistics.median(each.seconds for each in rounds)
        figures[f"{asked.name}_computed_tokens"] = computed
        figures[f"{asked.name}_distinct_tokens"] = distinct[asked.name]
        figures[f"{asked.name}_computed_over_distinct_tokens"] = computed / distinct[asked.name]
        figures[f"{asked.name}_share_of_matmul_rate"] = distinct[asked.name] * flops_per_token / seconds / rate
        shares.append(figures[f"{asked.name}_share_of_matmul_rate"])
        computed_total += computed
    if scored:
        figures["computed_over_distinct_tokens"] = computed_total / sum(distinct.values())
        figures["share_of_matmul_rate"] = statistics.median(shares)
    return figures


def layer_weights(checkpoint: Path) -> int:
    """Weights of the linear layers of a Llama, embeddings and logits not included."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    key_value = hidden * config["num_key_value_heads"] // heads
    layer = hidden * (2 * hidden + 2 * key_value) + 3 * hidden * config["intermediate_size"]
    return int(config["num_hidden_layers"] * layer)


def matmul_rate(threads: int) -> float:
    """Floating-point operations a second of a large float32 product of a linear layer's shape."""
    torch.set_num_threads(threads)
    inputs, weights = torch.randn(2048, 1024), torch.randn(1024, 1024)
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        torch.nn.functional.linear(inputs, weights)
        seconds.append(time.perf_counter() - began)
    return 2 * 2048 * 1024 * 1024 / statistics.median(seconds)


def _sequences(checkpoint: Path, asked: PromptSet) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    encoder = PromptEncoder(tokenizer, len(tokenizer))
    found = []
    for question in asked.questions:
        encoded = encoder.encode_scoring(RenderedPrompt(question.context, is_rendered=False), question.continuations)
        found += [[*encoded.context, *continuation[:-1]] for continuation in encoded.continuations]
    return found

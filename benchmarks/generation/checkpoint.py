"""The checkpoints that both sides run: a Llama of a real small model's shape with random weights, and the tiny policy.

Speed does not depend on what weights mean; accuracies are then near chance, and compared all the same.
"""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.generation.prompts import GSM8K_TOKENS, PromptSet

VOCABULARY_SIZE = 8192
CONTEXT_TOKENS = 4096
_BEGIN, _END = "<s>", "</s>"


def make_checkpoint(folder: Path, texts: Sequence[str]) -> Path:
    """Write a Llama of 36 million parameters in float32 and a tokenizer learned from ``texts``; return the folder."""
    tokenizer = _tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=False
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained_tiny_policy(folder: Path) -> Path:
    """Return the best checkpoint of the demo's training, which is done first if it is not finished."""
    subprocess.run([sys.executable, "-m", "examples.tiny_policy.train", f"--out={folder}"], check=True)
    names = [each["name"] for each in json.loads((folder / "training.json").read_text(encoding="utf-8"))["checkpoints"]]
    return folder / str(names[-1])


def fits(checkpoint: Path, asked: PromptSet) -> bool:
    """Whether every prompt of a set, with what follows it, fits into the checkpoint's context."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    context = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    texts = [*(prompt + continuation for prompt, continuation in asked.pairs), *asked.prompts]
    room = context - (GSM8K_TOKENS if asked.prompts else 0)
    return all(len(tokenizer(text).input_ids) <= room for text in texts)


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[_BEGIN, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_batches(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_BEGIN, eos_token=_END, model_max_length=CONTEXT_TOKENS
    )


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in itertools.count(0, 256):
        batch = list(texts[start : start + 256])
        if not batch:
            return
        yield batch

"""Fixtures that several rooms' tests share: the public data sets, a tiny checkpoint, a real Triton."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}{% if not loop.last or message['role'] != 'assistant' %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. What is 2 + 3? The answer is 5.",
    "Question: Which planet is the largest? A. Mars B. Jupiter C. Venus D. Earth Answer: B",
    "Ein schöner Tag – naïve café, 東京 and Ελλάδα 🙂 are here to make some bytes.",
]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the public data sets; its tests are skipped where there is none."""
    told = os.environ.get("EVALFLEET_DATA_DIR")
    folder = Path(told) if told else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no public data sets in {folder}; set EVALFLEET_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def checkpoint_factory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Make a random Llama checkpoint of a few thousand parameters with tokenizer and chat template, by seed."""
    made: dict[int, Path] = {}

    def make(seed: int) -> Path:
        if seed not in made:
            made[seed] = _write_tiny_checkpoint(tmp_path_factory.mktemp(f"tiny-{seed}"), seed)
        return made[seed]

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(checkpoint_factory: Callable[[int], Path]) -> Path:
    """Folder of a tiny random Llama checkpoint: 256 tokens of context, float32, chat template."""
    return checkpoint_factory(7)


def _write_tiny_checkpoint(folder: Path, seed: int) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", additional_special_tokens=special[2:]
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    assert "model_type" in json.loads((folder / "config.json").read_text())
    return folder

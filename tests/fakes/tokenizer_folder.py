"""A real tokenizer, trained in a moment, in a folder as ``save_pretrained`` leaves it."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' and loop.last %}{{ raise_exception('nothing but a system') }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}"
    "{% if not loop.last or message['role'] != 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_tokenizer(folder: Path, *, adds: str = "<s> $A", template: str | None = TEMPLATE, **config: object) -> Path:
    """Write a byte-level tokenizer; ``adds`` says which special tokens it puts around a text."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        ["The answer is A. The answer is B."], trainers.BpeTrainer(special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    tokens = [(token, tokenizer.token_to_id(token)) for token in SPECIAL[:2]]
    tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=tokens)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    size = tokenizer.get_vocab_size()
    model = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64, "vocab_size": size}
    (folder / "config.json").write_text(json.dumps(model), encoding="utf-8")
    return folder

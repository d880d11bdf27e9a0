"""A real checkpoint that answers "Verdict: A" to everything: each token is followed by one other, whatever came before.

Nothing is trained: attention and MLP add nothing, so that the next token depends on the last one alone.
"""

import itertools
from pathlib import Path

ANSWER = ("Verdict", ":", " A")
_BEGIN, _END, _ASSISTANT = "<s>", "</s>", "<|assistant|>"
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% endif %}{{ message['content'] | trim }}"
    "{% if not loop.last %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}\n<|assistant|>{% endif %}"
)
_WIDTH = 64
_SURE = 10.0


def write_constant_judge(folder: Path) -> Path:
    """Write the checkpoint; a moment's work."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[_BEGIN, _END, _ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Verdict: A", "Verdict: B"] * 50, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_END,
        additional_special_tokens=[_ASSISTANT],
    )
    fast.chat_template = _TEMPLATE
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    words = [fast.encode(each, add_special_tokens=False) for each in ANSWER]
    chain = [fast.convert_tokens_to_ids(_ASSISTANT), *(each for [each] in words), fast.eos_token_id]
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, _WIDTH - 1] = 1.0
        model.lm_head.weight.zero_()
        model.lm_head.weight[fast.eos_token_id, _WIDTH - 1] = _SURE
        for place, (token, following) in enumerate(itertools.pairwise(chain)):
            model.model.embed_tokens.weight[token] = torch.eye(_WIDTH)[place]
            model.lm_head.weight[following, place] = _SURE
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder

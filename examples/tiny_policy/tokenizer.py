"""The model's own byte-level BPE tokenizer and its chat template."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from examples.tiny_policy.documents import Document

VOCABULARY_SIZE = 2048
CONTEXT_TOKENS = 4096
PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
ROLES = ("system", "user", "assistant")

# Words and numbers of up to two digits, with the space before them, so that a small number is one token.
_SPLIT = Regex(r" ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+")

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('Unknown role ' ~ message['role'] ~ ': use system, user or assistant.') -}}
    {%- endif -%}
    {%- if message['role'] == 'system' and not loop.first -%}
        {{- raise_exception('A system message must be the first message.') -}}
    {%- endif -%}
    {{- '<|' ~ message['role'] ~ '|>' ~ (message['content'] | trim) ~ '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""


def role_token(role: str) -> str:
    """The special token that opens a message of this role."""
    return f"<|{role}|>"


def train_tokenizer(documents: Sequence[Document], rng: Random) -> PreTrainedTokenizerFast:
    """Learn the vocabulary from training documents and from a list of common English words.

    The word list is there so that prompts from elsewhere cost about a token per common word, not one per byte.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_SPLIT, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, BEGIN, END, *(role_token(role) for role in ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(documents, rng), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _training_texts(documents: Sequence[Document], rng: Random) -> Iterator[str]:
    for document in documents:
        for turn in document.turns:
            yield turn.prompt
            yield f" {turn.answer}"
            yield turn.answer
    words = Path(__file__).with_name("english_words.txt").read_text(encoding="utf-8").split()
    for rank, word in enumerate(words):
        # The list runs from common to rare; the counts only have to order the merges.
        count = 10 + 2000 // (rank + 20)
        yield f" {word}" * count
        yield f" {word.capitalize()}" * (count // 5)
    rng.shuffle(words)
    yield " ".join(words)

"""From documents to tensors: rows of similar length side by side, with loss on the answers alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from examples.tiny_policy.documents import Document, Form
from examples.tiny_policy.tokenizer import ROLES, role_token

NO_LOSS = -100


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """Token ids, and which of them the model has to predict."""

    tokens: tuple[int, ...]
    is_target: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows padded to one length.

    Attributes:
        tokens: int64 (rows, length); padding stands at the right, where causal attention never looks.
        targets: int64 (rows, length); the token that follows each position, or NO_LOSS.
    """

    tokens: torch.Tensor
    targets: torch.Tensor

    @property
    def target_count(self) -> int:
        """How many positions carry loss."""
        return int((self.targets != NO_LOSS).sum())


class DocumentEncoder:
    """Turns documents into token ids, a conversation exactly as the chat template renders it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._begin, self._end = tokenizer.bos_token_id, tokenizer.eos_token_id
        vocabulary = tokenizer.get_vocab()
        self._role_ids = {role: vocabulary[role_token(role)] for role in ROLES}

    def encode(self, document: Document, rng: Random) -> EncodedDocument:
        """Encode one document.

        Plain text begins with the begin token only every other time: callers differ in whether they send it.
        """
        tokens: list[int] = []
        is_target: list[bool] = []

        def add(ids: Sequence[int], target: bool) -> None:
            tokens.extend(ids)
            is_target.extend([target] * len(ids))

        if document.form is Form.CHAT:
            add([self._begin], False)
            if document.system:
                add([self._role_ids["system"], *self._ids(document.system), self._end], False)
            for turn in document.turns:
                add([self._role_ids["user"], *self._ids(turn.prompt), self._end], False)
                add([self._role_ids["assistant"]], False)
                add([*self._ids(turn.answer), self._end], True)
            return EncodedDocument(tuple(tokens), tuple(is_target))
        if rng.random() < 0.5:
            add([self._begin], False)
        for place, turn in enumerate(document.turns):
            add(self._ids(turn.prompt if place == 0 else f"\n\n{turn.prompt}"), False)
            add(self._ids(f" {turn.answer}"), True)
        add([self._end], True)
        return EncodedDocument(tuple(tokens), tuple(is_target))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def take_tokens(documents: Iterator[EncodedDocument], token_budget: int) -> list[EncodedDocument]:
    """Take documents until they hold at least so many tokens."""
    taken: list[EncodedDocument] = []
    total = 0
    while total < token_budget:
        document = next(documents)
        taken.append(document)
        total += len(document)
    return taken


def make_batches(documents: Sequence[EncodedDocument], batch_count: int, padding: int) -> list[Batch]:
    """Sort documents by length and cut them into so many batches of about equal token counts.

    Short next to short: nearly nothing is padding, so no attention mask is needed and none is computed.
    """
    ordered = sorted(documents, key=len)
    share = sum(map(len, ordered)) / batch_count
    groups: list[list[EncodedDocument]] = [[]]
    filled = 0
    for document in ordered:
        if filled >= share * len(groups):
            groups.append([])
        groups[-1].append(document)
        filled += len(document)
    return [_pad(group, padding) for group in groups]


def _pad(group: Sequence[EncodedDocument], padding: int) -> Batch:
    length = max(map(len, group))
    tokens = torch.full((len(group), length), padding, dtype=torch.long)
    targets = torch.full((len(group), length), NO_LOSS, dtype=torch.long)
    for row, document in enumerate(group):
        ids = torch.tensor(document.tokens)
        tokens[row, : len(ids)] = ids
        following = torch.where(torch.tensor(document.is_target)[1:], ids[1:], NO_LOSS)
        targets[row, : len(ids) - 1] = following
    return Batch(tokens, targets)

"""The tokenizer and chat template of a foreign model, read without torch or transformers.

A foreign Triton takes text only and adds special tokens of its own. So whatever is sent is chosen such that *its*
tokens are the ones that were meant, and the count that comes back is compared with ours.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.generation.foreign.chat_template import ChatTemplate
from services.generation.foreign.errors import ForeignTokenizerError, ForeignUnsupportedError
from services.generation.requests import Prompt
from services.inference.checkpoints import content_digest
from services.runtime.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError

TOKENIZER_PATTERNS: Final = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.*",
)
"""The files that are read; weights beside them are left alone."""

_CONTEXT_KEYS: Final = ("n_positions", "max_position_embeddings", "n_ctx")


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What the tokenizer's folder says about the model; zero or empty where it says nothing."""

    architecture: str = ""
    context_tokens: int = 0
    vocabulary_size: int = 0


@dataclass(frozen=True, slots=True)
class WirePrompt:
    """A prompt as it is sent.

    Attributes:
        text: becomes exactly the tokens that are meant when a server adds its special tokens to it.
        token_count: how many.
    """

    text: str
    token_count: int


@dataclass(frozen=True, slots=True)
class WireChoices:
    """A context as it is sent, and the tokens that may follow it: one a continuation."""

    context: WirePrompt
    token_ids: tuple[int, ...]


def tokenizer_digest(folder: Path) -> str:
    """Return the SHA-256 (hex) of all that is read of a tokenizer's folder."""
    return content_digest(folder, patterns=TOKENIZER_PATTERNS)


class ForeignTokenizer:
    """Encodes prompts as the foreign server will, and as they are meant.

    Attributes:
        facts: what else the folder says.

    Args:
        tokenizer: of the package ``tokenizers``.
        special_tokens: texts by name (``bos_token``, ``eos_token``, …).
        template: the chat template, if there is one.
        facts: see above.
    """

    def __init__(
        self,
        tokenizer: Any,
        special_tokens: Mapping[str, str],
        template: ChatTemplate | None,
        facts: TokenizerFacts,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._prefix = special_tokens.get("bos_token") or special_tokens.get("eos_token") or ""
        self.facts = facts

    @classmethod
    def load(cls, folder: Path) -> "ForeignTokenizer":
        """Read a folder; blocks.

        Raises:
            ForeignTokenizerError: there is no tokenizer.json, or something in the folder cannot be read.
            FailedPreconditionError: FOREIGN_PACKAGE_MISSING.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise FailedPreconditionError(
                "models of foreign Tritons need the package tokenizers: install evalfleet-services[foreign]",
                reason="FOREIGN_PACKAGE_MISSING",
            ) from error
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ForeignTokenizerError(
                f"{folder} holds no tokenizer.json; save the tokenizer with save_pretrained",
                metadata={"path": str(folder)},
            )
        config, tokens = (
            _read_object(folder / "tokenizer_config.json"),
            _read_object(folder / "special_tokens_map.json"),
        )
        special_tokens = {
            name: text
            for name, value in (tokens | config).items()
            if name.endswith("_token") and (text := _text(value))
        }
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare exceptions
            raise ForeignTokenizerError(f"{file} cannot be read: {error}", metadata={"path": str(folder)}) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        template = ChatTemplate.find(folder, config, special_tokens)
        return cls(tokenizer, special_tokens, template, _facts(_read_object(folder / "config.json")))

    def wire_prompt(self, prompt: Prompt) -> WirePrompt:
        """Return a prompt as it is sent.

        Raises:
            InvalidArgumentError: the template rejects the conversation, or the prompt has no tokens.
            FailedPreconditionError: there is no chat template.
            ForeignUnsupportedError: no text makes the server read the tokens that are meant.
        """
        text, is_rendered = self._rendered(prompt)
        return self._wire(text, self._meant(text, is_rendered=is_rendered))

    def wire_choices(self, context: Prompt, continuations: Sequence[str]) -> WireChoices:
        """Return a context as it is sent and the one token of each continuation, split as our own engines do.

        Raises:
            ForeignUnsupportedError: a continuation has more than one token; or as for ``wire_prompt``.
            InvalidArgumentError: a continuation adds no token; or as for ``wire_prompt``.
        """
        text, is_rendered = self._rendered(context)
        stripped = text.rstrip()
        context_ids = self._meant(stripped, is_rendered=is_rendered)
        wire = self._wire(stripped, context_ids)
        choices: list[int] = []
        for index, continuation in enumerate(continuations):
            whole = self._meant(text + continuation, is_rendered=is_rendered)
            tokens = whole[len(context_ids) :]
            if not tokens:
                message = "adds no token of its own behind the context"
                raise InvalidArgumentError(
                    f"continuation {index} {message}",
                    reason="CONTINUATION_EMPTY",
                    metadata={"index": str(index)},
                    field_violations=(FieldViolation(f"continuations[{index}]", message),),
                )
            if len(tokens) > 1:
                raise ForeignUnsupportedError(
                    f"continuation {index} has {len(tokens)} tokens; a foreign Triton gives log-probabilities of the "
                    "next token only, so only continuations of one token can be scored exactly. Register the "
                    "checkpoint itself to score longer ones",
                    reason="FOREIGN_SCORING_UNSUPPORTED",
                    metadata={"index": str(index), "tokens": str(len(tokens))},
                )
            choices.append(tokens[0])
        return WireChoices(wire, tuple(choices))

    def _rendered(self, prompt: Prompt) -> tuple[str, bool]:
        if isinstance(prompt, str):
            return prompt, False
        if self._template is None:
            raise FailedPreconditionError(
                "the tokenizer that this foreign model was registered with has no chat template, so it cannot take a "
                "conversation; send a text prompt",
                reason="CHAT_TEMPLATE_MISSING",
            )
        return self._template.render(prompt), True

    def _meant(self, text: str, *, is_rendered: bool) -> list[int]:
        # As our own engines: a template writes its special tokens itself, and no text gets a second BOS.
        writes_special = is_rendered or bool(self._prefix and text.startswith(self._prefix))
        return self._encode(text, add_special_tokens=not writes_special)

    def _wire(self, text: str, meant: list[int]) -> WirePrompt:
        if not meant:
            raise InvalidArgumentError("the prompt has no tokens", reason="PROMPT_EMPTY")
        without_prefix = text.removeprefix(self._prefix) if self._prefix else text
        for candidate in (without_prefix, text):
            if candidate and self._encode(candidate, add_special_tokens=True) == meant:
                return WirePrompt(candidate, len(meant))
        raise ForeignUnsupportedError(
            "a foreign Triton takes text and adds special tokens to it, and there is no text from which this tokenizer "
            "then makes the tokens that are meant",
            reason="FOREIGN_PROMPT_INEXPRESSIBLE",
        )

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ForeignTokenizerError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ForeignTokenizerError(f"{file} must hold a JSON object")
    return content


def _text(value: object) -> str:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _facts(config: Mapping[str, Any]) -> TokenizerFacts:
    nested = config.get("text_config")
    text_config: Mapping[str, Any] = nested if isinstance(nested, dict) else config
    architectures = config.get("architectures")
    return TokenizerFacts(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        context_tokens=next((found for key in _CONTEXT_KEYS if (found := _count(text_config.get(key)))), 0),
        vocabulary_size=_count(text_config.get("vocab_size")),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0

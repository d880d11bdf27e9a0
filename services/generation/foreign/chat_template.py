"""Renders conversations with a checkpoint's chat template, in a sandbox and without transformers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from services.generation.foreign.errors import ForeignTokenizerError
from services.generation.requests import Turn
from services.runtime.errors import FailedPreconditionError, InvalidArgumentError

# The space behind it tells whether the template trims what a turn says.
_END_MARK: Final = "evalfleet-end-of-final-message "


class ChatTemplate:
    """One compiled template.

    Args:
        source: its Jinja text.
        special_tokens: texts by name, which templates refer to.

    Raises:
        ForeignTokenizerError: it does not compile.
        FailedPreconditionError: FOREIGN_PACKAGE_MISSING.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        try:
            from jinja2 import TemplateError

            from services.generation.foreign.jinja_environment import chat_environment
        except ImportError as error:
            raise FailedPreconditionError(
                "chat templates of foreign models need the package jinja2: install evalfleet-services[foreign]",
                reason="FOREIGN_PACKAGE_MISSING",
            ) from error
        self._errors = (TemplateError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError)
        self._special_tokens = dict(special_tokens)
        try:
            self._template = chat_environment().from_string(source)
        except TemplateError as error:
            raise ForeignTokenizerError(f"the chat template cannot be compiled: {error}") from error

    @classmethod
    def find(
        cls, folder: Path, tokenizer_config: Mapping[str, Any], special_tokens: Mapping[str, str]
    ) -> "ChatTemplate | None":
        """Return the template of a tokenizer's folder: of its file, or of its configuration.

        Raises:
            ForeignTokenizerError: it cannot be read.
        """
        source = _source(folder, tokenizer_config)
        return None if source is None else cls(source, special_tokens)

    def render(self, turns: Sequence[Turn]) -> str:
        """Render a conversation and open the model's turn; an assistant's last turn is continued instead.

        Raises:
            InvalidArgumentError: CHAT_TEMPLATE_REJECTED.
        """
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        continues = messages[-1]["role"] == "assistant"
        if continues:
            messages[-1]["content"] += _END_MARK
        try:
            text = self._template.render(
                messages=messages,
                add_generation_prompt=not continues,
                tools=None,
                documents=None,
                **self._special_tokens,
            )
        except self._errors as error:
            raise _rejected(str(error), turns) from error
        if not continues:
            return text
        end = text.rfind(_END_MARK.rstrip())
        if end < 0 or turns[-1].content.strip() not in text[:end]:
            raise _rejected("it leaves out parts of the turn that is to be continued", turns)
        is_trimmed = not text.startswith(_END_MARK, end)
        return text[:end].rstrip() if is_trimmed else text[:end]


def _source(folder: Path, config: Mapping[str, Any]) -> str | None:
    try:
        if (file := folder / "chat_template.jinja").is_file():
            return file.read_text(encoding="utf-8")
        found = config.get("chat_template")
        if found is None and (file := folder / "chat_template.json").is_file():
            found = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise ForeignTokenizerError(f"the chat template in {folder} cannot be read: {error}") from error
    if isinstance(found, list):  # several by name
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise ForeignTokenizerError(f"the chat template in {folder} is no text")
    return found


def _rejected(problem: str, turns: Sequence[Turn]) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"the chat template rejects this conversation: {problem}",
        reason="CHAT_TEMPLATE_REJECTED",
        metadata={"roles": ",".join(turn.role for turn in turns)},
    )

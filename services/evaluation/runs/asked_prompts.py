"""What an item asks of the model and takes for right, as others are told it: turns for a guard, text for the ledger."""

import json
from typing import Final

from services.evaluation.items import ChatPrompt, Item, Message, PlainPrompt, Prompt

MOST_TARGET_BYTES: Final = 4096
"""The ledger keeps targets with each result, for people who read; longer ones are a data set of their own."""


def conversation_of(item: Item) -> tuple[Message, ...]:
    """The item's prompt as turns; a plain prompt is one turn of the user."""
    match _prompt_of(item):
        case ChatPrompt(messages):
            return messages
        case PlainPrompt(text):
            return (Message("user", text),)


def prompt_text(item: Item) -> str:
    """What the ledger keeps of the prompt: the text, or the turns as JSON."""
    match _prompt_of(item):
        case ChatPrompt(messages):
            return json.dumps([{"role": each.role, "content": each.content} for each in messages], ensure_ascii=False)
        case PlainPrompt(text):
            return text


def shown_targets(item: Item) -> tuple[str, ...]:
    """What the ledger keeps of what the task takes for right; nothing where that is long: a part would mislead."""
    choices = item.multiple_choice
    targets = tuple(choices.choices[each].text for each in choices.gold_indices) if choices else item.targets
    return targets if sum(len(each.encode()) for each in targets) <= MOST_TARGET_BYTES else ()


def _prompt_of(item: Item) -> Prompt:
    if item.prompt is not None:
        return item.prompt
    return item.multiple_choice.choices[0].context if item.multiple_choice else PlainPrompt("")

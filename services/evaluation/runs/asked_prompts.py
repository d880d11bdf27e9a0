"""What an item asks of the model, as others are told it: turns for a guard, text for the ledger."""

import json

from services.evaluation.items import ChatPrompt, Item, Message, PlainPrompt, Prompt


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


def _prompt_of(item: Item) -> Prompt:
    if item.prompt is not None:
        return item.prompt
    return item.multiple_choice.choices[0].context if item.multiple_choice else PlainPrompt("")

"""The stream of training documents: which skills in which share, as conversations and as plain text."""

from collections.abc import Iterator
from random import Random

from examples.tiny_policy import arithmetic, multiple_choice, refusals
from examples.tiny_policy.documents import Document, Form, Turn

_ARITHMETIC, _MULTIPLE_CHOICE, _REQUESTS, _SMALL_TALK = "arithmetic", "multiple_choice", "requests", "small_talk"
_SHARES = {_ARITHMETIC: 0.45, _MULTIPLE_CHOICE: 0.34, _REQUESTS: 0.2, _SMALL_TALK: 0.01}
_PLAIN_SHARE = 0.5
_SECOND_TURN_SHARE = 0.0
_SYSTEM_SHARE = 0.05

_SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly assistant who answers questions.",
    "Answer the question.",
)
_SMALL_TALK_TURNS = (
    Turn("Hello!", "Hello! How can I help you?"),
    Turn("Hi there.", "Hello! How can I help you?"),
    Turn("Good morning!", "Good morning! How can I help you?"),
    Turn("Who are you?", "I am a tiny model, trained to be tested."),
    Turn("What can you do?", "I can add small numbers and choose answers."),
    Turn("Thank you!", "You are welcome."),
    Turn("Goodbye.", "Goodbye!"),
)


def draw_documents(seed: int, step: int) -> Iterator[Document]:
    """Endless training documents of one step; the same for equal seed and step, whatever was drawn before."""
    rng = Random(f"{seed}/{step}")
    while True:
        yield _draw_document(rng)


def _draw_document(rng: Random) -> Document:
    skill = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
    takes_plain_text = skill in (_ARITHMETIC, _MULTIPLE_CHOICE)
    form = Form.PLAIN if takes_plain_text and rng.random() < _PLAIN_SHARE else Form.CHAT
    turns = [_draw_turn(rng, skill, form)]
    if rng.random() < _SECOND_TURN_SHARE:
        turns.append(_draw_turn(rng, skill, form))
    system = rng.choice(_SYSTEM_MESSAGES) if form is Form.CHAT and rng.random() < _SYSTEM_SHARE else ""
    return Document(form, tuple(turns), system)


def _draw_turn(rng: Random, skill: str, form: Form) -> Turn:
    if skill == _ARITHMETIC:
        return arithmetic.draw_turn(rng, form, held_out=False)[1]
    if skill == _MULTIPLE_CHOICE:
        return multiple_choice.lay_out(multiple_choice.draw_question(rng, held_out=False), form)
    if skill == _REQUESTS:
        return refusals.draw_request(rng, held_out=False).as_turn()
    return rng.choice(_SMALL_TALK_TURNS)
